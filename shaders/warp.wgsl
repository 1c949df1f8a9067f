// warp — y[n, c, i, j] = x[n, c] at the row m3·u + m4·v + m5 and the column m0·u + m1·v + m2, counted from the image's centre;
// u and v are the column and the row of the output, counted from the centre; bilinear between pixels, 0 outside
//   x, y [n, c, h, w]   m [n, 6]
// One invocation per element of y. Neighbours read neighbours where the map turns little.
//!include lib/index

fn pixel(start: u32, row: i32, column: i32) -> f32 {
    let inside = row >= 0 && row < i32(p.h) && column >= 0 && column < i32(p.w);
    let at = clamp(row, 0, i32(p.h) - 1) * i32(p.w) + clamp(column, 0, i32(p.w) - 1);
    return select(0.0, x[start + u32(at)], inside);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let unit = group_index(id, n) * WG + local;
    if unit >= p.units {
        return;
    }
    let at = p.first + unit;
    let plane = at / (p.h * p.w);
    let k = at % (p.h * p.w);
    let map = plane / p.c * 6u;
    let down = (f32(p.h) - 1.0) * 0.5;
    let right = (f32(p.w) - 1.0) * 0.5;
    let u = f32(k % p.w) - right;
    let v = f32(k / p.w) - down;
    // Places far outside are moved to where all four neighbours are outside as well.
    let column = clamp(m[map] * u + m[map + 1u] * v + m[map + 2u] + right, -2.0, f32(p.w) + 1.0);
    let row = clamp(m[map + 3u] * u + m[map + 4u] * v + m[map + 5u] + down, -2.0, f32(p.h) + 1.0);
    let i = i32(floor(row));
    let j = i32(floor(column));
    let a = row - floor(row);
    let b = column - floor(column);
    let start = plane * p.h * p.w;
    let upper = pixel(start, i, j) * (1.0 - b) + pixel(start, i, j + 1) * b;
    let lower = pixel(start, i + 1, j) * (1.0 - b) + pixel(start, i + 1, j + 1) * b;
    y[unit] = upper * (1.0 - a) + lower * a;
}
