//! Microsoft's older compiler FXC, as the program that `$FXC` names. `scripts/fxc.c` has what it reads and writes.

use super::dx12::Hlsl;
use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// The program. It is an error if there is none.
pub fn program() -> Result<OsString, String> {
    std::env::var_os("FXC").ok_or_else(|| "$FXC names no program; `scripts/dx12.sh fxc` prints one".to_string())
}

/// Why FXC does not compile a text.
pub enum Refusal {
    /// It took too long.
    Slow,
    Error(String),
}

/// A compiler for one thread.
pub struct Fxc {
    child: Child,
    texts: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Fxc {
    pub fn new(program: &OsString) -> Fxc {
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("$FXC runs");
        let (texts, answers) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        Fxc { child, texts, answers: BufReader::new(answers) }
    }
    /// Compiles a text. After any [`Refusal::Slow`] the compiler is of no use any more.
    pub fn compile(&mut self, hlsl: &Hlsl) -> Result<(), Refusal> {
        let broken = |e: std::io::Error| Refusal::Error(format!("$FXC ended: {e}"));
        write!(self.texts, "{} {}\n{}", hlsl.entry, hlsl.text.len(), hlsl.text).map_err(broken)?;
        self.texts.flush().map_err(broken)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(broken)?;
        match answer.split_whitespace().collect::<Vec<_>>()[..] {
            ["ok"] => Ok(()),
            ["slow"] => Err(Refusal::Slow),
            ["refused", bytes] => {
                let mut said = vec![0; bytes.parse().map_err(|_| Refusal::Error(format!("$FXC said {answer}")))?];
                self.answers.read_exact(&mut said).map_err(broken)?;
                let said = String::from_utf8_lossy(&said);
                // FXC says much about loops that it unrolls.
                let errors: Vec<&str> = said.lines().filter(|line| !line.contains(": warning ")).collect();
                Err(Refusal::Error(errors.join("\n").trim_matches('\0').to_string()))
            }
            _ => Err(Refusal::Error(format!("$FXC said {answer:?}"))),
        }
    }
}

impl Drop for Fxc {
    fn drop(&mut self) {
        // A program that has ended is not there to be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
