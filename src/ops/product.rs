//! Products of matrices on the CPU device, by the `gemm` crate.

use gemm::Parallelism;

/// A matrix in memory: element (i, j) is `data[i · strides[0] + j · strides[1]]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows that are `pitch` apart.
    pub fn rows(data: &'a [f32], pitch: usize) -> Matrix<'a> {
        Matrix { data, strides: [pitch, 1] }
    }
    pub fn transposed(self) -> Matrix<'a> {
        let [row, column] = self.strides;
        Matrix { strides: [column, row], ..self }
    }
}

/// y = scale·a·b, or y += scale·a·b where `add`, for `a [m, k]`, `b [k, n]` and y of m rows that are `pitch` apart.
pub fn product([m, k, n]: [usize; 3], scale: f32, [a, b]: [Matrix; 2], y: &mut [f32], pitch: usize, add: bool, threads: Parallelism) {
    let end = |rows: usize, columns: usize, [row, column]: [usize; 2]| (rows - 1) * row + (columns - 1) * column;
    assert!(end(m, k, a.strides) < a.data.len() && end(k, n, b.strides) < b.data.len() && end(m, n, [pitch, 1]) < y.len());
    let [[a_row, a_column], [b_row, b_column]] = [a.strides, b.strides].map(|s| s.map(|s| s as isize));
    let (a, b, y, pitch) = (a.data.as_ptr(), b.data.as_ptr(), y.as_mut_ptr(), pitch as isize);
    let kept = if add { 1.0 } else { 0.0 };
    // SAFETY: the assertion above keeps every element of the three matrices inside its slice, and y is borrowed mutably,
    // so that it overlaps neither of the others.
    unsafe {
        gemm::gemm(m, n, k, y, 1, pitch, add, a, a_column, a_row, b, b_column, b_row, kept, scale, false, false, false, threads);
    }
}
