// refuse — the trial of an update found that something would overflow: the step is a bad one
// guard[8 + what] says what: see src/optim/guard.rs. Every invocation that comes here writes the same to the same places.

fn refuse(what: u32) {
    guard[0] = max(step.step.x + 1u, 1u);
    guard[13] = 3u;
    guard[8u + what] = 1u;
}

// guard[7] in the first bad step, whose gradients are looked through.
const LOOK: u32 = 3u;

fn finite_bits(x: u32) -> bool {
    return (x & 0x7f800000u) != 0x7f800000u;
}
