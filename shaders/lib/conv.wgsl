// The walk along the sums, which the kernels of convolutions share.
//
// All three ops are sums over products of an element of `a` and one of `b`,
//   forward   a = w, b = x:    y[o; n,i,j]  = Σ_{c,u,v} w · x        grad_x   a = w, b = dy:   dx[c; n,i,j] = Σ_{o,u,v} w · dy
//   grad_w    a = dy, b = x:   dw[o; c,u,v] = Σ_{n,i,j} dy · x
// that is, products of a matrix with rows (o, c, o) and one with columns (behind the semicolons), of which neither is in memory:
// where an element of `b` lies depends on both the column and the term of the sum. But that place is a number for the
// column plus a number for the term, in the image and in each of its two axes. So columns and terms are each a walk over three
// digits (image or channel, row, column), with how far each step of a digit leads. Offsets wrap: only sums of two count.
//
// With a stride, a row of dx meets only every stride-th row of the kernel. So grad_x goes through the image by phases: the
// pixels that are equal modulo the stride, whose taps are an arithmetic progression; Dumoulin & Visin 2016, §4.

struct Walk {
    rows: u32,          // its digits: number = (t0 · rows + t1) · columns + t2
    columns: u32,
    count: u32,         // numbers from here on are none of it
    plane: u32,         // in b: elements from one t0 to the next
    steps: vec2<u32>,   // in b's image: rows from one t1 to the next, columns from one t2 to the next
    start: vec2<u32>,   // in b's image: row and column of the first one
    other: vec3<u32>,   // in the other tensor (columns: the result, terms: a): elements from one digit to the next
    first: u32,         // in the other tensor: the first element
}

// Work with one set of terms: columns of the result, the terms of its sums, and which of them to add.
struct Work {
    columns: Walk,
    terms: Walk,
    first: u32,
    end: u32,
}

// An element of b: offset, row, column (of its image), and that in the other tensor. Beyond a walk the row is outside of all images.
fn place(w: Walk, number: u32) -> vec4<u32> {
    if number >= w.count {
        return vec4<u32>(0u, 0x40000000u, 0u, 0u);
    }
    return place_of(w, digits(w, number));
}

fn digits(w: Walk, number: u32) -> vec3<u32> {
    let row = number / w.columns;
    return vec3<u32>(row / w.rows, row % w.rows, number % w.columns);
}

fn place_of(w: Walk, t: vec3<u32>) -> vec4<u32> {
    let at = w.start + t.yz * w.steps;
    let other = t * w.other;
    return vec4<u32>(t.x * w.plane + at.x * p.b_width + at.y, at.x, at.y, w.first + other.x + other.y + other.z);
}

// Pixels of y, with those of x that they are made of.
fn pixels(images: u32) -> Walk {
    return Walk(p.oh, p.ow, images * p.oh * p.ow, p.image_x, vec2<u32>(p.sh, p.sw), vec2<u32>(0u - p.top, 0u - p.left),
        vec3<u32>(p.image_y, p.ow, 1u), 0u);
}

// Elements of a kernel.
fn taps() -> Walk {
    return Walk(p.kh, p.kw, p.taps, p.h * p.w, vec2<u32>(p.dh, p.dw), vec2<u32>(), vec3<u32>(p.kh * p.kw, p.kw, 1u), 0u);
}

// Along one axis, the pixels first, first + stride, … of `size`: how many, the first tap that meets them, how many do, and the pixel
// of y that the first pixel and the first tap meet in.
struct Phase {
    pixels: u32,
    tap: u32,
    taps: u32,
    start: u32,
}

fn phase(first: u32, size: u32, stride: u32, dilation: u32, pad: u32, kernel: u32, tap_step: u32) -> Phase {
    let at = first + pad;
    var tap = 0u;
    while tap < tap_step && (tap * dilation) % stride != at % stride {
        tap++;
    }
    // Beyond the kernel, or no tap at all.
    let none = tap >= min(tap_step, kernel);
    let last = select(kernel, tap, none);
    let start = (i32(at) - i32(tap * dilation)) / i32(stride);
    return Phase((size - first + stride - 1u) / stride, tap, (last - tap + tap_step - 1u) / tap_step, u32(start));
}

// Returns the work of part `part` for `images` images: a phase of grad_x (MODE 1), or a share of the terms of grad_w (MODE 2).
fn work(part: u32, images: u32) -> Work {
    if MODE == 0u {
        return Work(pixels(images), taps(), 0u, p.taps);
    }
    if MODE == 2u {
        let terms = pixels(images);
        return Work(taps(), terms, min(part * p.share, terms.count), min((part + 1u) * p.share, terms.count));
    }
    let i = part / p.phases_w;
    let j = part % p.phases_w;
    return work_x(phase(i, p.h, p.sh, p.dh, p.top, p.kh, p.tap_h), phase(j, p.w, p.sw, p.dw, p.left, p.kw, p.tap_w), i * p.w + j, images);
}

fn work_x(h: Phase, w: Phase, first: u32, images: u32) -> Work {
    // One tap further is stride / gcd taps of the kernel, and dilation / gcd pixels of y back.
    let back = vec2<u32>(0u - h_step(), 0u - w_step());
    let columns = Walk(h.pixels, w.pixels, images * h.pixels * w.pixels, p.image_y, vec2<u32>(1u), vec2<u32>(h.start, w.start),
        vec3<u32>(p.image_x, p.sh * p.w, p.sw), first);
    let terms = Walk(h.taps, w.taps, p.o * h.taps * w.taps, p.oh * p.ow, back, vec2<u32>(),
        vec3<u32>(p.taps, p.tap_h * p.kw, p.tap_w), h.tap * p.kw + w.tap);
    return Work(columns, terms, 0u, terms.count);
}

fn h_step() -> u32 {
    return p.tap_h * p.dh / p.sh;
}

fn w_step() -> u32 {
    return p.tap_w * p.dw / p.sw;
}

// Returns true if a column and a term meet inside of the image.
fn meet(column: vec4<u32>, term: vec4<u32>) -> bool {
    return all(column.yz + term.yz < vec2<u32>(p.b_height, p.b_width));
}

// The element of b that they meet in, in the group that starts at `start`; 0 outside of the image.
fn factor(start: u32, column: vec4<u32>, term: vec4<u32>) -> f32 {
    if meet(column, term) {
        return b[start + column.x + term.x];
    }
    return 0.0;
}

// Images of the block with that number in this dispatch: the last block of all may have fewer.
fn images_of(block: u32) -> u32 {
    return min(p.images, p.batch - (p.first / p.block_units + block) * p.images);
}
