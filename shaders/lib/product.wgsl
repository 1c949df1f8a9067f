// work — a unit of a matrix product: one tile of outputs of one product of a batch, or of one part of the sums.
//   p.tiles, p.tiles_m, p.tiles_n    tiles of a product, in a column and in a row. If the sums are cut into parts, there is one product
//   p.walk                  rows of tiles that are walked column by column before the next rows, so that their part of b stays in caches
//   p.share, p.terms        terms from one part to the next; the largest number of terms in a part. Without parts: 0 and all terms
//   p.size                  elements from one product (or part) to the next in y
//   p.block_units, p.block_a, p.block_b, p.block_y    where tensors are seen in windows: units of a block, and its elements in
//                           each tensor, 0 in those that are seen whole. A window starts with a block.
struct Work {
    a: u32,         // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
    b: u32,
    y: u32,
    row: u32,       // the first row and column of the tile
    column: u32,
    first: u32,     // the terms of its sums
    end: u32,
}

fn work(unit: u32, rows: u32, columns: u32) -> Work {
    let all = p.first + unit;
    let outer = all / p.tiles;
    let tile = all % p.tiles;
    let start = batch_starts(outer);
    let before = p.first / p.block_units;
    let first = outer * p.share;
    let band = tile / (p.walk * p.tiles_n);
    let height = min(p.walk, p.tiles_m - band * p.walk);
    let place = tile % (p.walk * p.tiles_n);
    return Work(start.x - before * p.block_a, start.y - before * p.block_b, outer * p.size - before * p.block_y,
        (band * p.walk + place % height) * rows, place / height * columns, first, min(first + p.terms, p.k));
}

// The first elements of the matrices a and b that product number `i` of a batch multiplies.
//   p.d1, p.d2, p.d3        sizes of the last three batch axes (there are at most four)
//   p.a0 … p.a3, p.b0 … p.b3   elements between neighbours along each batch axis; 0 where a matrix repeats
fn batch_starts(i: u32) -> vec2<u32> {
    let c3 = i % p.d3;
    let r3 = i / p.d3;
    let c2 = r3 % p.d2;
    let r2 = r3 / p.d2;
    let c1 = r2 % p.d1;
    let c0 = r2 / p.d1;
    return vec2<u32>(c0 * p.a0 + c1 * p.a1 + c2 * p.a2 + c3 * p.a3, c0 * p.b0 + c1 * p.b1 + c2 * p.b2 + c3 * p.b3);
}

// The place, from the start of the matrix, of the element of a in row i at term q, or of b in column j at term q.
fn at_a(i: u32, q: u32) -> u32 {
    return select(i * p.k + q, q * p.m + i, TA == 1u);
}

fn at_b(j: u32, q: u32) -> u32 {
    return select(q * p.n + j, j * p.k + q, TB == 1u);
}

// How far apart the elements of neighbouring terms are.
fn step_a() -> u32 {
    return select(1u, p.m, TA == 1u);
}

fn step_b() -> u32 {
    return select(p.n, 1u, TB == 1u);
}
