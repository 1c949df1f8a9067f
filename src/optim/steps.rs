//! The update as steps of a plan.

use super::{Control, MAX_STATES, Optimizer, State, guard::TOTAL, whole::control};
use crate::{
    kernel::{ALIGN, Bind, Caps, Kernel, Pass, Word, source},
    params::{Layout, Part, Range, Status},
    plan::{Flat, Loc, Phase, Step, Update, Work},
    shape::{DType, Shape},
};

/// The number of elements that one workgroup adds up.
const CHUNK: usize = 4096;

/// The number of words of a partial sum of the norms. Each of the three norms has a sum of squares and its class.
pub(super) const PARTIAL: usize = 6;

/// The number of groups of four elements that one invocation of the trial reads. A trial that is not needed then starts only a
/// few workgroups.
const EACH: usize = 16;

// The numbers of the inputs of a rule's kernels.
const WEIGHTS: usize = 0;
const GRADS: usize = 1;
const GUARD: usize = 2;
const STATES: usize = 3;

impl Optimizer {
    /// Returns the steps between the gradients and the new weights, in order. For each piece of `layout`, or each of its parts, they are:
    ///
    /// 1. the accumulation of a micro-batch, if `micro` is set;
    /// 2. the check;
    /// 3. the norms of the parameters of a part, if the rule has a ratio;
    /// 4. the trials of the assignment of state and of the update of a part;
    /// 5. the update of a part;
    /// 6. the assignment of state, if `assigns`.
    ///
    /// The pieces of whole parameters are checked only. Another function adds the steps that update them. `groups` is the number of
    /// [rows](Optimizer::rows) of hyperparameters of a step. `loss` is the location of the loss, and `micro` the location of the
    /// micro-batch's weight. Without `caps`, the steps are for the CPU device.
    pub fn steps(&self, layout: &Layout, groups: usize, assigns: bool, loss: Loc, micro: Option<Loc>, caps: Option<&Caps>) -> Vec<Step> {
        let (trained, state) = (0..layout.trained, if assigns { layout.state_pieces() } else { 0..0 });
        let elementwise = layout.elementwise();
        // The trial looks for the gradients at fault. It sees no whole parameters, and none of another rank.
        let unseen = if layout.is_cut() { trained.clone() } else { layout.trained - layout.whole..layout.trained };
        let control = control(layout, groups, caps);
        let of = Steps { optimizer: self, layout, control, groups, loss, micro, caps };
        let mut steps = Vec::new();
        if micro.is_some() {
            steps.extend(trained.clone().map(|piece| of.accumulate(piece)));
        }
        // The CPU device has the sums of squares already when it has the gradients.
        let checked = if caps.is_some() { trained.clone() } else { 0..1 };
        steps.extend(checked.map(|piece| of.check(piece)));
        // The update of the CPU device computes the ratios too.
        let measured = if self.has_ratio() && caps.is_some() { elementwise.clone() } else { 0..0 };
        steps.extend(measured.map(|part| of.norms(part)));
        steps.extend(unseen.filter(|_| caps.is_some()).map(|piece| of.look(piece)));
        steps.extend(state.clone().map(|piece| of.assign(true, piece)));
        steps.extend(elementwise.clone().map(|part| of.apply(true, part)));
        steps.extend(elementwise.map(|part| of.apply(false, part)));
        steps.extend(state.map(|piece| of.assign(false, piece)));
        steps
    }
}

pub(super) struct Steps<'a> {
    pub optimizer: &'a Optimizer,
    pub layout: &'a Layout,
    pub control: Control,
    pub groups: usize,
    pub loss: Loc,
    pub micro: Option<Loc>,
    pub caps: Option<&'a Caps>,
}

impl Steps<'_> {
    /// Returns the place and the shape of a whole piece of a flat buffer.
    pub fn piece(&self, flat: Flat, piece: usize) -> (Loc, Shape) {
        (Loc::Piece(flat, piece), Shape::from([self.layout.pieces[piece]]))
    }
    /// Returns the place and the shape of a part of a flat buffer of weights or gradients.
    fn part(&self, flat: Flat, part: usize) -> (Loc, Shape) {
        match self.layout.is_cut() {
            true => (Loc::Part(flat, part), Shape::from([self.layout.parts[part].len])),
            false => self.piece(flat, part),
        }
    }
    /// Returns the place and the shape of a state of the rule, or of the average, for a part.
    fn state(&self, k: usize, part: usize) -> (Loc, Shape) {
        (Loc::Piece(Flat::State(k), part), Shape::from([self.layout.parts[part].len]))
    }
    pub fn control(&self) -> (Loc, Shape) {
        (Loc::Control, Shape::from([self.control.words]).of(DType::U32))
    }
    pub fn step(&self, phase: Phase, update: Update, name: &str, piece: usize, inputs: Vec<(Loc, Shape)>, kernel: Option<Kernel>) -> Step {
        let trial = if matches!(update, Update::Try | Update::TryAssign) { "trial of " } else { "" };
        let label = format!("update {trial}{name} piece {piece} [{}]", inputs.first().map_or(0, |(_, shape)| shape.elements()));
        let (layer, work, output) = (String::new(), Work::Update(update, piece), self.control());
        // Steps without code of the rule contain only WGSL of the library.
        let unchecked = !matches!(update, Update::Norms | Update::Try | Update::Apply) || self.optimizer.rule.is_unchecked();
        Step { phase, label, layer, work, inputs, output, scratch: Vec::new(), kernel, unchecked }
    }

    /// Adds the gradients of a micro-batch to the sum of the gradients before. With the first piece, it first computes the
    /// weight of the micro-batch in the sum.
    fn accumulate(&self, piece: usize) -> Step {
        let mut inputs = vec![self.piece(Flat::Micro, piece), self.piece(Flat::Grads, piece), self.control()];
        inputs.extend([self.loss].into_iter().chain(self.micro).map(|loc| (loc, Shape::SCALAR)));
        let kernel = self.caps.map(|caps| {
            let four = |name, i| Bind::input(name, i, DType::F32).per_unit(4).vec4();
            let guard = Bind::input("guard", 2, DType::U32);
            let units = self.layout.pieces[piece] / 4;
            let binds = vec![four("micro", 0), four("sum", 1).written(), guard.clone()];
            let add = Pass { units, per_group: caps.workgroup(256), ..pass(caps, source!("optim/accumulate"), "accumulate", binds) };
            let binds = vec![guard.written(), Bind::input("loss", 3, DType::F32), Bind::input("weight", 4, DType::F32)];
            let weigh = pass(caps, source!("optim/accumulate"), "weigh", binds);
            let passes = if piece == 0 { vec![weigh, add] } else { vec![add] };
            Kernel { name: "accumulate", passes, scratch: Vec::new() }
        });
        self.step(Phase::Reduce, Update::Accumulate, "accumulate", piece, inputs, kernel)
    }

    /// Computes the norm of the gradients. With the last piece, it decides whether the step counts.
    fn check(&self, piece: usize) -> Step {
        let mut inputs = vec![self.piece(Flat::Grads, piece), self.control()];
        // With micro-batches, the guard has the mean loss.
        let loss = match self.micro {
            None => "fn step_loss() -> f32 {\n    return loss[0];\n}\n",
            Some(_) => "fn step_loss() -> f32 {\n    return bitcast<f32>(guard[LOSS_SUM]);\n}\n",
        };
        if self.micro.is_none() {
            inputs.push((self.loss, Shape::SCALAR));
        }
        let kernel = self.caps.map(|caps| {
            let chunk = chunk(caps, 4);
            let len = self.layout.pieces[piece];
            let units = len.div_ceil(chunk);
            let consts = vec![("WG", Word::from(caps.workgroup(256))), ("CHUNK", Word::from(chunk))];
            let (grads, partials) = (Bind::input("grads", 0, DType::F32).per_unit(chunk).vec4(), Bind::scratch("partials", 0));
            let binds = vec![grads, partials.clone().per_unit(TOTAL).written()];
            let join = source!("optim/join").text;
            let squares = Pass {
                consts: consts.clone(),
                params: vec![("len".into(), Word::from(len))],
                code: join.into(),
                units,
                ..pass(caps, source!("optim/squares"), "squares", binds)
            };
            let mut binds = vec![partials, Bind::input("guard", 1, DType::U32).written()];
            if self.micro.is_none() {
                binds.push(Bind::input("loss", 2, DType::F32));
            }
            let max = |clip: Option<f32>| Word::F(clip.unwrap_or(0.0));
            let clip = self.optimizer.clip();
            let params = [
                ("count", Word::from(units)),
                ("piece", Word::from(piece)),
                ("pieces", Word::from(self.layout.trained)),
                ("max_norm", max(clip.norm)),
                ("max_value", max(clip.value)),
            ];
            let check = Pass {
                consts,
                params: params.map(|(name, word)| (name.to_string(), word)).into(),
                code: [join, loss].concat(),
                step: true,
                ..pass(caps, source!("optim/guard"), "check", binds)
            };
            Kernel { name: "guard", passes: vec![squares, check], scratch: vec![TOTAL * units] }
        });
        self.step(Phase::Check, Update::Check, "guard", piece, inputs, kernel)
    }

    /// Returns the inputs of a rule's kernels: weights, gradients, the control buffer and states of the rule.
    fn of_rule(&self, part: usize) -> Vec<(Loc, Shape)> {
        let states = (0..self.optimizer.elementwise_states().len()).map(|k| self.state(k, part));
        [self.part(Flat::Weights, part), self.part(Flat::Grads, part), self.control()].into_iter().chain(states).collect()
    }
    /// Returns the positions of the tables of a part in the control buffer, for piece.wgsl.
    fn tables(&self, part: usize) -> Vec<(String, Word)> {
        let limit = Word::F(self.optimizer.clip().value.unwrap_or(f32::MAX));
        let ((segments, segment_count), (runs, run_count)) = (self.control.own[part], self.control.runs[part]);
        let mut counts = vec![
            ("groups", self.groups),
            ("hyper", self.control.hyper),
            ("runs", runs),
            ("run_count", run_count),
            ("flags", self.control.flags),
            ("segments", segments),
            ("segment_count", segment_count),
        ];
        if self.optimizer.has_ratio() {
            counts.push(("rows", self.control.rows));
        }
        let params = counts.into_iter().map(|(name, n)| (name.to_string(), Word::from(n)));
        params.chain([("limit".to_string(), limit)]).collect()
    }

    /// Returns the code of the rule, and piece.wgsl with the functions that it needs.
    fn code(&self, part: usize) -> String {
        let rule = &self.optimizer.rule;
        // If all parameters of a part belong to one group, no table is needed.
        let group = match self.layout.runs(part)[..] {
            [(_, group)] => format!("{group}u"),
            _ => "owner(i, p.runs, p.run_count)".into(),
        };
        let group = format!("fn group_of(i: u32) -> u32 {{\n    return {group};\n}}\n");
        let limited = if self.optimizer.clip().value.is_some() { "clamp(g, vec4(-p.limit), vec4(p.limit))" } else { "g" };
        let limited = format!("fn limited(g: vec4<f32>) -> vec4<f32> {{\n    return {limited};\n}}\n");
        [rule.source().text, &state_code(&rule.states()), &group, &limited, source!("optim/piece").text].join("\n")
    }

    /// Computes the norms of the parameters and their ratios.
    fn norms(&self, part: usize) -> Step {
        let kept = self.optimizer.elementwise_states();
        let kernel = self.caps.map(|caps| {
            let (cell, Part { start, len, .. }) = (chunk(caps, ALIGN), self.layout.parts[part]);
            // Cells lie where those of the whole piece lie, so that the sums do not depend on shards.
            let shift = start % cell;
            let (cells, segments) = ((shift + len).div_ceil(cell), self.control.own[part].1);
            // A piece with a part that begins within a cell has several parameters, so one binding can reach all of it.
            let each = |name, i| match (shift, Bind::input(name, i, DType::F32).vec4()) {
                (0, bind) => bind.per_unit(cell),
                (_, bind) => bind,
            };
            let (guard, partials) = (Bind::input("guard", GUARD, DType::U32), Bind::scratch("partials", 0));
            // Each element of the partials is written by one workgroup only.
            let mut binds = vec![each("params", WEIGHTS), each("grads", GRADS), guard.clone(), partials.clone().flags()];
            binds.extend(kept.iter().enumerate().map(|(k, s)| each(s.name, STATES + k)));
            let mut params = self.tables(part);
            params.push(("fours".into(), Word::from(len / 4)));
            let code = [&self.code(part), source!("optim/join").text, source!("optim/cells").text].join("\n");
            let of = |entry, binds, units| {
                let pass = pass(caps, source!("optim/norms"), entry, binds);
                let consts = [pass.consts, vec![("CELL", Word::from(cell)), ("SHIFT", Word::from(shift / 4))]].concat();
                Pass { consts, params: params.clone(), code: code.clone(), units, step: true, ..pass }
            };
            let passes = vec![of("add_up", binds, cells), of("ratios", vec![partials, guard.flags()], segments)];
            Kernel { name: "norms", passes, scratch: vec![PARTIAL * (cells + segments)] }
        });
        self.step(Phase::Check, Update::Norms, "norms", part, self.of_rule(part), kernel)
    }

    /// Applies one step of the rule, or its trial. A trial writes only the guard.
    fn apply(&self, trial: bool, part: usize) -> Step {
        let (rule, mut kept, mut inputs) = (&self.optimizer.rule, self.optimizer.elementwise_states(), self.of_rule(part));
        let average = self.optimizer.average_state().filter(|_| !trial);
        if let Some(average) = average {
            inputs.push(self.average(part));
            kept.push(average);
        }
        let kernel = self.caps.map(|caps| {
            // A unit is four elements of one parameter.
            let each = |name, i| Bind { write: !trial, ..Bind::input(name, i, DType::F32).per_unit(4).vec4() };
            let mut binds = vec![
                each("params", WEIGHTS),
                Bind { write: false, ..each("grads", GRADS) },
                Bind::input("guard", GUARD, DType::U32).flags(),
            ];
            binds.extend(kept.iter().enumerate().map(|(k, s)| each(s.name, STATES + k)));
            let scaled = if self.optimizer.has_ratio() { SCALED } else { UNSCALED };
            let (average, turn) = if average.is_some() { (source!("optim/average").text, Some(self.turn())) } else { (ALONE, None) };
            let mut pass = Pass {
                params: self.tables(part).into_iter().chain(turn).collect(),
                code: [&self.code(part), scaled, average, source!("optim/refuse").text].join("\n"),
                units: self.layout.parts[part].len / 4,
                per_group: caps.workgroup(256),
                step: true,
                ..pass(caps, source!("optim/update"), "update", binds)
            };
            if trial {
                pass.entry = "trial";
                pass.consts.push(("EACH", Word::from(EACH)));
                pass.per_group *= EACH;
            }
            Kernel::one(rule.name(), pass)
        });
        let (phase, update) = if trial { (Phase::Check, Update::Try) } else { (Phase::Update, Update::Apply) };
        self.step(phase, update, rule.name(), part, inputs, kernel)
    }

    /// Returns the place of the average of a part. It is the last state.
    fn average(&self, part: usize) -> (Loc, Shape) {
        self.state(self.optimizer.states().len() - 1, part)
    }
    /// Returns the row of the average as a parameter of a kernel. The rows of whole parameters lie behind it.
    fn turn(&self) -> (String, Word) {
        let whole = |range: &Range| if let Status::Whole { group } = range.status { Some(group) } else { None };
        let row = self.layout.ranges.iter().filter_map(whole).min().unwrap_or(self.groups - 1);
        ("turn".into(), Word::from(row))
    }
    /// Moves the average of a part of whole parameters, whose new weights are stored.
    pub fn follow(&self, part: usize) -> Step {
        let inputs = vec![self.part(Flat::Weights, part), self.average(part), self.control()];
        let kernel = self.caps.map(|caps| {
            let four = |name, i| Bind::input(name, i, DType::F32).per_unit(4).vec4().written();
            let binds = vec![four("weights", 0), four("average", 1), Bind::input("guard", 2, DType::U32)];
            let counts = [("hyper", self.control.hyper), ("groups", self.groups)].map(|(name, n)| (name.into(), Word::from(n)));
            let pass = Pass {
                params: counts.into_iter().chain([self.turn()]).collect(),
                code: source!("optim/piece").text.into(),
                units: self.layout.parts[part].len / 4,
                per_group: caps.workgroup(256),
                step: true,
                ..pass(caps, source!("optim/average"), "follow", binds)
            };
            Kernel::one("follow", pass)
        });
        self.step(Phase::Update, Update::Follow, "average", part, inputs, kernel)
    }

    /// Assigns the next values to a piece of state, or makes a trial of the assignment. The trial writes only the guard.
    fn assign(&self, trial: bool, piece: usize) -> Step {
        let inputs = vec![self.piece(Flat::Weights, piece), self.piece(Flat::Next, piece), self.control()];
        let kernel = self.assignment(trial, self.layout.pieces[piece], MAX_STATES + 1);
        let (phase, update) = if trial { (Phase::Check, Update::TryAssign) } else { (Phase::Assign, Update::Assign) };
        self.step(phase, update, "assign", piece, inputs, kernel)
    }
    /// Returns the kernel that assigns `units` values. If one of them would overflow, it raises the guard's flag `what`.
    fn assignment(&self, trial: bool, units: usize, what: usize) -> Option<Kernel> {
        self.caps.map(|caps| {
            let each = |name, i| Bind::input(name, i, DType::F32).per_unit(1);
            let state = Bind { write: !trial, ..each("state", 0) };
            let binds = vec![state, each("value", 1), Bind::input("guard", 2, DType::U32).flags()];
            let base = pass(caps, source!("optim/assign"), if trial { "trial" } else { "assign" }, binds);
            let pass = Pass {
                consts: [base.consts, vec![("WHAT", Word::from(what))]].concat(),
                code: source!("optim/refuse").text.into(),
                units,
                per_group: caps.workgroup(256),
                step: trial,
                ..base
            };
            Kernel::one("assign", pass)
        })
    }

    /// Copies the factors that clip gradients, and the hyperparameters of the groups from `first` on, to `to`.
    pub fn numbers(&self, to: Loc, count: usize, first: usize) -> Step {
        let kernel = self.caps.map(|caps| {
            let binds = vec![Bind::input("guard", 0, DType::U32), Bind::output("numbers", DType::F32)];
            let params = [("hyper", self.control.hyper), ("groups", self.groups), ("own", first)];
            let pass = Pass {
                params: params.map(|(name, n)| (name.to_string(), Word::from(n))).into(),
                units: count,
                per_group: caps.workgroup(256),
                step: true,
                ..pass(caps, source!("optim/numbers"), "copy", binds)
            };
            Kernel::one("numbers", pass)
        });
        let step = self.step(Phase::Check, Update::Numbers, "numbers", 0, vec![self.control()], kernel);
        Step { label: format!("update numbers [{count}]"), output: (to, Shape::from([count])), ..step }
    }
    /// After a bad step, flags the parameters of a piece whose gradients are not finite.
    fn look(&self, piece: usize) -> Step {
        let kernel = self.caps.map(|caps| {
            let (segments, count) = self.control.segments[piece];
            let params = [("flags", self.control.flags), ("segments", segments), ("segment_count", count)];
            let binds = vec![Bind::input("grads", 0, DType::F32).per_unit(4).vec4(), Bind::input("guard", 1, DType::U32).flags()];
            let base = pass(caps, source!("optim/look"), "look", binds);
            let pass = Pass {
                consts: [base.consts, vec![("EACH", Word::from(EACH))]].concat(),
                params: params.map(|(name, n)| (name.to_string(), Word::from(n))).into(),
                code: [source!("optim/refuse").text, source!("optim/piece").text].join("\n"),
                units: self.layout.pieces[piece] / 4,
                per_group: caps.workgroup(256) * EACH,
                ..base
            };
            Kernel::one("look", pass)
        });
        self.step(Phase::Check, Update::Look, "look", piece, vec![self.piece(Flat::Grads, piece), self.control()], kernel)
    }
    /// Stores a new weight or state, or makes a trial of that. `what` is the flag of the guard for a number that would overflow.
    pub fn store(&self, trial: bool, name: &str, to: Loc, from: (Loc, Shape), what: usize) -> Step {
        let kernel = self.assignment(trial, from.1.elements(), what);
        let (phase, update, of) = if trial { (Phase::Check, Update::TryStore, "trial of ") } else { (Phase::Update, Update::Store, "") };
        let step = self.step(phase, update, "", what, vec![(to, from.1), from, self.control()], kernel);
        Step { label: format!("update {of}store {name} {}", from.1), ..step }
    }
}

/// The WGSL functions for the ratio of four elements and for a direction times the ratio.
const SCALED: &str = "fn ratio_of(four: u32) -> f32 {
    return number(p.rows + 4u * owner(four, p.segments, p.segment_count) + 3u);
}
fn scaled(u: f32, r: f32) -> f32 {
    return r * u;
}
";
/// The WGSL functions of a rule without a ratio.
const UNSCALED: &str = "fn ratio_of(four: u32) -> f32 {
    return 1.0;
}
fn scaled(u: f32, r: f32) -> f32 {
    return u;
}
";

/// The WGSL functions of an optimizer without an average of the weights.
const ALONE: &str = "fn turn() -> vec2<f32> {
    return vec2(0.0);
}
fn averaged(i: u32, w: vec4<f32>, turn: vec2<f32>) -> vec4<f32> {
    return w;
}
";

/// Returns the number of elements that one workgroup sums. It is a multiple of `grain`. If a piece is larger than a binding,
/// the dispatch is split at multiples of 64 such chunks.
pub(super) fn chunk(caps: &Caps, grain: usize) -> usize {
    // On a software adapter, the tree sum at the end of a chunk costs more than the loads of another 15 chunks.
    let most = if caps.software { 16 * CHUNK } else { CHUNK };
    (caps.max_binding_bytes / 256).clamp(64, most as u64) as usize / grain * grain
}

/// Returns a pass of one workgroup, without parameters.
pub(super) fn pass(caps: &Caps, source: crate::kernel::Source, entry: &'static str, binds: Vec<Bind>) -> Pass {
    let consts = vec![("WG", Word::from(caps.workgroup(256)))];
    Pass { source, entry, consts, params: Vec::new(), binds, code: String::new(), units: 1, per_group: 1, step: false }
}

/// Writes the WGSL code for the states of a rule: the struct `State`, the struct `States` of four elements, and functions.
/// `load` and `store` read and write four elements. `squares` sums their squares. `compare` refuses states that overflow.
fn state_code(states: &[State]) -> String {
    if states.is_empty() {
        // WGSL has no empty struct.
        return "struct State { none: f32 }\n\
            struct States { x: State, y: State, z: State, w: State }\n\
            fn load(i: u32) -> States {\n    return States();\n}\n\
            fn store(i: u32, s: States) {\n}\n\
            fn squares(s: States) -> f32 {\n    return 0.0;\n}\n\
            fn compare(was: States, is: States) {\n}\n"
            .to_string();
    }
    let list = |f: &dyn Fn(&State) -> String, separator: &str| states.iter().map(f).collect::<Vec<_>>().join(separator);
    let kept = |s: &State, code: String, other: &str| if s.kept { code } else { other.to_string() };
    let fields = list(&|s| format!("{}: f32", s.name), ", ");
    let loads = list(&|s| kept(s, format!("    let l_{0} = {0}[i];\n", s.name), ""), "");
    let of = |c: &str| format!("State({})", list(&|s| kept(s, format!("l_{}.{c}", s.name), "0.0"), ", "));
    let four = |of: &str, name: &str| format!("vec4({of}.x.{name}, {of}.y.{name}, {of}.z.{name}, {of}.w.{name})");
    let stores = list(&|s| kept(s, format!("    {}[i] = {};\n", s.name, four("s", s.name)), ""), "");
    let square = |s: &State| kept(s, format!("    let q_{0} = {1};\n    sum += dot(q_{0}, q_{0});\n", s.name, four("s", s.name)), "");
    let squares = list(&square, "");
    let mut number = 0;
    let mut compared = String::new();
    for s in states.iter().filter(|s| s.kept) {
        number += 1;
        compared +=
            &format!("    if (overflows({}, {})) {{\n        refuse({number}u);\n    }}\n", four("was", s.name), four("is", s.name));
    }
    let all = ["x", "y", "z", "w"].map(of).join(", ");
    format!(
        "struct State {{ {fields} }}\n\
         struct States {{ x: State, y: State, z: State, w: State }}\n\
         fn load(i: u32) -> States {{\n{loads}    return States({all});\n}}\n\
         fn store(i: u32, s: States) {{\n{stores}}}\n\
         fn squares(s: States) -> f32 {{\n    var sum = 0.0;\n{squares}    return sum;\n}}\n\
         fn compare(was: States, is: States) {{\n{compared}}}\n"
    )
}
