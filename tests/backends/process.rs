//! A compiler in a process of its own, so that a test outlives its crash. `scripts/fxc.c` has what the process reads and writes.

use super::dx12::Hlsl;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Why there is no compiled text.
#[derive(Debug)]
pub enum Refusal {
    /// The compiler took too long.
    Slow,
    /// The process ended.
    Ended(String),
    /// The compiler refused the text, and said why.
    Error(String),
}

/// A compiler for one thread.
pub struct Process {
    child: Child,
    texts: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn new(command: &mut Command) -> Process {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?} does not run: {e}"));
        let (texts, answers) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        Process { child, texts, answers: BufReader::new(answers) }
    }
    /// Compiles a text. After [`Refusal::Slow`] and [`Refusal::Ended`] the process is of no use any more.
    pub fn compile(&mut self, hlsl: &Hlsl) -> Result<(), Refusal> {
        self.ask(hlsl).unwrap_or_else(|e| {
            // A process that does not understand is ended, too.
            let _ = self.child.kill();
            let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(Refusal::Ended(format!("the compiler ended ({status}): {e}")))
        })
    }
    fn ask(&mut self, hlsl: &Hlsl) -> io::Result<Result<(), Refusal>> {
        write!(self.texts, "{} {}\n{}", hlsl.entry, hlsl.text.len(), hlsl.text)?;
        self.texts.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(match answer.split_whitespace().collect::<Vec<_>>()[..] {
            ["ok"] => Ok(()),
            ["slow"] => Err(Refusal::Slow),
            ["refused", bytes] => {
                let mut said = vec![0; bytes.parse().map_err(io::Error::other)?];
                self.answers.read_exact(&mut said)?;
                let said = String::from_utf8_lossy(&said);
                // FXC says much about loops that it unrolls.
                let errors: Vec<&str> = said.lines().filter(|line| !line.contains(": warning ")).collect();
                Err(Refusal::Error(errors.join("\n").trim_matches('\0').to_string()))
            }
            _ => return Err(io::Error::other(format!("its answer is {answer:?}"))),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended is not there to be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
