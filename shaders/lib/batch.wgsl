// batch_starts — the first elements of the matrices a and b that product number `i` of a batch multiplies.
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
