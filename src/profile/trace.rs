//! The events of a trace, and the trace of all ranks on one clock.

use super::{Profile, Track, median};
use serde_json::{Value, json};

/// The thread of a trace that has the first exchanges. Exchanges that overlap are in several threads.
const EXCHANGE: usize = 4;

/// Rounds to whole nanoseconds. Both ends of a span are rounded, so that it stays inside the span that contains it.
fn nanos(seconds: f64) -> f64 {
    (seconds * 1e9).round()
}

/// Returns the event that names a process or a thread.
fn name(what: &str, pid: usize, tid: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } })
}

impl Profile {
    /// Returns the whole trace.
    pub(super) fn trace(&self) -> Value {
        let events = if self.ranks.is_empty() { self.events(None) } else { self.ranks.clone() };
        json!({ "traceEvents": events, "displayTimeUnit": "ns" })
    }
    /// Returns the events of all spans, by the clock of this rank.
    fn events(&self, rank: Option<usize>) -> Vec<Value> {
        let place = |track: Track| match (rank, track) {
            (None, Track::Device) => (2, 1),
            (None, _) => (1, 1),
            (Some(rank), Track::Rank) => (rank + 1, 1),
            (Some(rank), Track::Host) => (rank + 1, 2),
            (Some(rank), Track::Device) => (rank + 1, 3),
            (Some(rank), Track::Exchange) => (rank + 1, EXCHANGE),
        };
        let mut events = match rank {
            None => vec![
                name("process_name", 1, 1, "host"),
                name("thread_name", 1, 1, "steps"),
                name("process_name", 2, 1, &self.device),
                name("thread_name", 2, 1, "kernels"),
            ],
            Some(rank) => {
                let mut names = vec![name("process_name", rank + 1, 1, &format!("rank {rank}: {}", self.device))];
                let threads = ["steps", "steps with clocks", "kernels with clocks"];
                names.extend(threads.into_iter().zip(1..).map(|(thread, tid)| name("thread_name", rank + 1, tid, thread)));
                names
            }
        };
        // The ends of the last exchanges in each thread.
        let mut lanes: Vec<f64> = Vec::new();
        for s in &self.spans {
            let (start, end) = (nanos(s.start), nanos(s.start + s.seconds));
            let (pid, mut tid) = place(s.track);
            let (cat, args) = match (s.track, s.kernel.map(|k| &self.kernels[k])) {
                (Track::Exchange, _) => {
                    let lane = lanes.iter().position(|&last| last <= start).unwrap_or(lanes.len());
                    tid += lane;
                    match lanes.get_mut(lane) {
                        Some(last) => *last = end,
                        None => {
                            lanes.push(end);
                            events.push(name("thread_name", pid, tid, "exchange"));
                        }
                    }
                    ("exchange", json!({ "bytes": s.bytes }))
                }
                (_, Some(k)) => {
                    ("device", json!({ "what": k.label, "layer": k.layer, "flop": k.flops, "bytes": k.bytes, "dispatches": k.dispatches }))
                }
                (Track::Device, None) => ("device", json!({})),
                (Track::Rank, None) => ("rank", json!({})),
                (Track::Host, None) => ("host", json!({})),
            };
            events.push(json!({
                "ph": "X", "name": s.name, "cat": cat, "pid": pid, "tid": tid,
                "ts": start / 1e3, "dur": (end - start) / 1e3, "args": args,
            }));
        }
        events
    }
    /// Returns the events of this rank as bytes, with the ends of its exchanges.
    pub(crate) fn shared(&self, rank: usize) -> Vec<u8> {
        let exchanges = self.spans.iter().filter(|s| s.track == Track::Exchange);
        let ends: Vec<f64> = exchanges.map(|s| nanos(s.start + s.seconds)).collect();
        json!({ "ends": ends, "events": self.events(Some(rank)) }).to_string().into_bytes()
    }
    /// Makes the trace of all ranks from what [`shared`](Profile::shared) returned on each of them. Returns the first rank whose events cannot
    /// be read.
    pub(crate) fn join(&mut self, all: &[Vec<u8>]) -> Result<(), usize> {
        let mut shifts = Vec::new();
        let mut events = Vec::new();
        let mut first: Option<Vec<f64>> = None;
        for (rank, bytes) in all.iter().enumerate() {
            let mut of: Value = serde_json::from_slice(bytes).map_err(|_| rank)?;
            let mut ends: Vec<f64> = of["ends"].as_array().ok_or(rank)?.iter().filter_map(Value::as_f64).collect();
            // Exchanges of one step may end in one another's order of starts; sorted, the k-th end is that of the same exchange.
            ends.sort_by(f64::total_cmp);
            let zero = first.get_or_insert_with(|| ends.clone());
            shifts.push(median(zero.iter().zip(&ends).map(|(zero, end)| zero - end).collect()).round());
            events.extend(of["events"].as_array_mut().ok_or(rank)?.drain(..).map(|event| (rank, event)));
        }
        let time = |rank: usize, event: &Value| Some((event["ts"].as_f64()? * 1e3).round() + shifts[rank]);
        // No event is before the start of the trace.
        let start = events.iter().filter_map(|(rank, event)| time(*rank, event)).fold(f64::INFINITY, f64::min);
        let moved = |(rank, mut event): (usize, Value)| {
            if let Some(time) = time(rank, &event) {
                event["ts"] = json!((time - start) / 1e3);
            }
            event
        };
        self.ranks = events.into_iter().map(moved).collect();
        Ok(())
    }
}
