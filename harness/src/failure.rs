//! The error message when the machine fails.

use std::fmt;

/// How many of the console's last lines are shown.
const LINES: usize = 20;

/// The *machine* failed. This says nothing about the command that ran in it.
#[derive(Debug)]
pub struct Failure {
    what: String,
    console: String,
    /// Whether nobody reads the other end of an output any more (EPIPE).
    pub broken_pipe: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure::with_console(what.into(), String::new())
    }

    /// What failed, and why.
    pub fn because(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
        Failure::new(format!("{what}: {why}"))
    }

    /// The same, with the console's last lines.
    pub(crate) fn with_console(what: String, console: String) -> Failure {
        Failure { what, console, broken_pipe: false }
    }

    /// What failed, without the console.
    pub(crate) fn first_line(&self) -> String {
        printable(self.what.lines().next().unwrap_or_default())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut lines = self.what.lines().map(str::trim_end);
        f.write_str(&printable(lines.next().unwrap_or_default()))?;
        for line in lines {
            write!(f, "\n    {}", printable(line))?;
        }
        let lines = self.console.lines().map(str::trim_end);
        let lines: Vec<&str> = lines.filter(|line| !is_normal(line)).collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            write!(f, "\n    | {}", printable(line))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Errors that the kernel prints in every machine, also in one that works:
/// they would distract from the cause.
const NORMAL: [&str; 2] = [
    "ACPI BIOS Error (bug): A valid RSDP was not found",
    "PCI: Fatal: No config space access function found",
];

fn is_normal(line: &str) -> bool {
    line.is_empty() || NORMAL.iter().any(|normal| line.contains(normal))
}

/// The guest may print anything. Control characters are escaped, so that they
/// do nothing to the reader's terminal.
pub fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_printable() {
        let console = format!("a\x1b[7m\r\n[1] {}\r\n\r\nb\r\n", NORMAL[1]);
        let failure = Failure::with_console("what:\nwhy".into(), console);
        let shown = "what:\n    why\n    | a\\u{1b}[7m\n    | b";
        assert_eq!(failure.to_string(), shown);
        assert_eq!(failure.first_line(), "what:");
    }
}
