//! Compares two sessions. They are the same if they differ only in values that
//! the machine chooses, such as PIDs. Values that are equal in one session must
//! be equal in the other: one PID twice is not the same as two PIDs.

use std::collections::HashMap;

use super::text::{Block, Turn};

/// The kinds of values that the machine chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// In `sh(48)`, `/proc/48`, a column PID, the output of `echo $$`. Only
    /// numbers above 1: 0 and 1 are compared as they are.
    Pid,
    /// In `uts:[4026532190]`, a column NS.
    Namespace,
    /// The id of a mount, its parent or its peer group: mountinfo, `shared:5`.
    Mount,
    /// `0x8990b7ae`, from ipcmk.
    Key,
    /// The address of a network device.
    Address,
    /// The number of all processes.
    Count,
    /// A time of day, or processor time.
    Time,
    /// The kernel's release.
    Release,
}

/// The keys that the page has, and those that the machine has, in the same
/// order.
#[derive(Debug, Default)]
pub struct Same {
    page: Vec<String>,
    real: Vec<String>,
}

impl Same {
    /// A turn of the page, with the machine's keys where the page has its
    /// own.
    pub fn expect(&mut self, turn: &Turn) -> Turn {
        collect(turn, &mut self.page);
        let mut typed = turn.typed.clone();
        for (page, real) in self.page.iter().zip(&self.real) {
            typed = typed.replace(page, real);
        }
        Turn { typed, ..turn.clone() }
    }

    /// Notes the keys of the same turn, as the machine showed them.
    pub fn record(&mut self, turn: &Turn) {
        collect(turn, &mut self.real);
    }
}

fn collect(turn: &Turn, keys: &mut Vec<String>) {
    for word in turn.output.iter().flat_map(|line| line.split_whitespace()) {
        if is_key(word) && !keys.iter().any(|key| key == word) {
            keys.push(word.to_string());
        }
    }
}

/// The first lines that differ: the page's after `-`, the machine's after `+`.
pub fn difference(page: &Block, real: &Block) -> Option<String> {
    let (page, real) = (plain(page), plain(real));
    let lines = page.len().max(real.len());
    let at = (0..lines).find(|&at| {
        page.get(at).map(|line| &line.1) != real.get(at).map(|line| &line.1)
    })?;
    let rest = |lines: &[(String, String)], sign: &str| {
        let lines = lines.iter().skip(at).take(8);
        lines.map(|line| format!("{sign}{}\n", line.0)).collect::<String>()
    };
    let before: String = page[..at]
        .iter()
        .rev()
        .take(3)
        .rev()
        .map(|l| format!(" {}\n", l.0))
        .collect();
    let head = "the page -, the terminal +\n".to_string();
    Some(head + &before + &rest(&page, "-") + &rest(&real, "+"))
}

/// Each line as it is, and with names for the values that the machine chose.
fn plain(block: &Block) -> Vec<(String, String)> {
    let mut names = Names::default();
    let mut lines = Vec::new();
    for turn in &block.turns {
        let pids = ["$$", "$!"].iter().any(|it| turn.typed.contains(it));
        let mut heads = Vec::new();
        for (number, line) in turn.lines().into_iter().enumerate() {
            if number > 0 && turn.typed == "exit" && is_exit_message(&line) {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            // A row of a report may have such a word, too, but it has digits.
            let is_heading = !line.contains(|it: char| it.is_ascii_digit());
            if is_heading && (words.contains(&"PID") || words.contains(&"ID")) {
                heads = words.iter().map(|it| it.to_string()).collect();
            }
            let mut plain = match number {
                0 => names.line(&line, &[], false),
                _ => names.line(&line, &heads, pids),
            };
            if number > 0 && !heads.is_empty() {
                // The width of a column depends on the largest possible number,
                // which differs between machines.
                let words: Vec<&str> = plain.split_whitespace().collect();
                plain = words.join(" ");
            }
            lines.push((line, plain));
        }
    }
    lines
}

/// Whether a shell prints this line when `exit` is typed. bash repeats the
/// word. dash complains if the process group that had the terminal before is
/// outside of its PID namespace. Which of them is `sh` depends on the
/// distribution.
fn is_exit_message(line: &str) -> bool {
    let complaint = "Cannot set tty process group (No such process)";
    line == "exit" || (line.starts_with("sh: ") && line.ends_with(complaint))
}

/// The machine's values so far, each with its number among those of its kind.
#[derive(Debug, Default)]
struct Names(HashMap<(Kind, String), usize>);

impl Names {
    fn name(&mut self, kind: Kind, word: &str) -> String {
        if kind == Kind::Pid && ["0", "1"].contains(&word) {
            return word.to_string();
        }
        if kind == Kind::Time || kind == Kind::Release {
            return format!("{kind:?}");
        }
        let next = self.0.iter().filter(|it| it.0.0 == kind).count() + 1;
        let number = self.0.entry((kind, word.to_string())).or_insert(next);
        format!("{kind:?}{number}")
    }

    /// The line with names for the machine's values. If there are any, single
    /// spaces replace the columns, which a longer number would move.
    fn line(&mut self, line: &str, heads: &[String], pids: bool) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let plain: Vec<String> = (0..words.len())
            .map(|at| match kind_of_word(&words, at, heads, pids) {
                Some(kind) => self.name(kind, words[at]),
                None => self.parts(words[at]),
            })
            .collect();
        match plain.iter().zip(&words).all(|(plain, word)| plain == word) {
            true => line.to_string(),
            false => plain.join(" "),
        }
    }

    /// The same for the numbers within a word.
    fn parts(&mut self, word: &str) -> String {
        let mut plain = String::new();
        let mut rest = word;
        while let Some(at) = rest.find(|it: char| it.is_ascii_digit()) {
            let (before, from) = rest.split_at(at);
            plain += before;
            let end = from.find(|it: char| !it.is_ascii_digit());
            let (number, after) = from.split_at(end.unwrap_or(from.len()));
            let kind = match plain.as_str() {
                it if it.ends_with(":[") => Some(Kind::Namespace),
                it if it.ends_with("/proc/") => Some(Kind::Pid),
                it if it.ends_with("shared:") => Some(Kind::Mount),
                it if it.ends_with("master:") => Some(Kind::Mount),
                it if it.ends_with('(') && it.len() > 1 => Some(Kind::Pid),
                _ => None,
            };
            plain += &match kind {
                Some(kind) => self.name(kind, number),
                None => number.to_string(),
            };
            rest = after;
        }
        plain + rest
    }
}

/// The kind of a word, if all of it is a value that the machine chose.
fn kind_of_word(
    words: &[&str],
    at: usize,
    heads: &[String],
    pids: bool,
) -> Option<Kind> {
    let word = words[at];
    let number = word.bytes().all(|it| it.is_ascii_digit());
    let bytes = |by: char| word.split(by).filter(|it| it.len() == 2).count();
    if is_key(word) {
        return Some(Kind::Key);
    }
    if bytes(':') == 6 && !word.starts_with("00:") && !word.starts_with("ff:") {
        return Some(Kind::Address);
    }
    if word.starts_with("fe80::") {
        return Some(Kind::Address);
    }
    if word.split(':').all(|it| it.len() == 2 && it.parse::<u8>().is_ok())
        && word.contains(':')
    {
        return Some(Kind::Time);
    }
    if word.split('.').count() > 2
        && word.contains('-')
        && word.starts_with(|it: char| it.is_ascii_digit())
    {
        return Some(Kind::Release);
    }
    if !number {
        return None;
    }
    if pids && words.len() == 1 {
        return Some(Kind::Pid);
    }
    // Three numbers and a path: a line of mountinfo.
    if at < 2
        && words.get(2).is_some_and(|it| it.contains(':'))
        && words.get(3).is_some_and(|it| it.starts_with('/'))
    {
        return Some(Kind::Mount);
    }
    // The rows of the reports.
    match words {
        ["PID" | "NSpid" | "NSpid:" | "PPid:" | "/proc/self", ..] => {
            return Some(Kind::Pid);
        }
        ["parent", "PID", ..] => return Some(Kind::Pid),
        ["processes", "in", "/proc", ..] => return Some(Kind::Count),
        _ => {}
    }
    match heads.get(at).map(String::as_str) {
        Some("PID" | "PPID") => Some(Kind::Pid),
        Some("NS") => Some(Kind::Namespace),
        Some("ID" | "PARENT") => Some(Kind::Mount),
        Some("C") => Some(Kind::Time), // Processor use, in percent.
        _ => None,
    }
}

fn is_key(word: &str) -> bool {
    word.len() == 10 && word.starts_with("0x") && word != "0x00000000"
}

#[cfg(test)]
mod tests {
    use super::super::text::Page;
    use super::difference;
    use rstest::rstest;

    #[rstest]
    #[case::other_pids("sh(48)───ps(49)", "sh(5)───ps(6)", true)]
    #[case::two_that_were_one("sh(48)───ps(48)", "sh(5)───ps(6)", false)]
    #[case::one_that_was_two("sh(48)───ps(49)", "sh(5)───ps(5)", false)]
    #[case::pid_1_is_compared_as_it_is("sh(1)", "sh(2)", false)]
    #[case::columns("  PID CMD\n  99 sh", "  PID CMD\n 100 sh", true)]
    #[case::wider_columns(
        "  PID CMD\n  99 sh",
        "    PID CMD\n     99 sh",
        true
    )]
    #[case::wider_columns_of_pid_1(
        "  PID CMD\n  1 a",
        "    PID CMD\n    1 a",
        true
    )]
    #[case::a_row("  PID CMD\n  1 a b", "  PID CMD\n  1 ab", false)]
    #[case::a_report("PID  92  1  92", "PID  95  1  95", true)]
    #[case::a_wrong_report("PID  92  1  92", "PID  95  1  96", false)]
    #[case::columns_of_a_report(
        "parent PID  0\nuid  1",
        "parent PID  0\nuid 1",
        false
    )]
    #[case::a_heading("  PID CMD\n  99 sh", "  PID COMMAND\n  99 sh", false)]
    #[case::a_command("  PID CMD\n  99 sh", "  PID CMD\n 100 ps", false)]
    #[case::namespaces("uts:[4026531838]", "uts:[4026532190]", true)]
    #[case::times("PID TIME\n9 00:00:00", "PID TIME\n9 01:02:03", true)]
    #[case::an_id_of_a_user("uid=1000(reader)", "uid=1001(reader)", false)]
    #[case::a_map("0 1000 1", "0 1001 1", false)]
    #[case::a_number("1000", "1001", false)]
    #[case::an_address("127.0.0.1/8", "127.0.0.2/8", false)]
    #[case::columns_that_nothing_moves("a  b", "a b", false)]
    #[case::an_extra_line("a", "a\na", false)]
    fn sameness(#[case] page: &str, #[case] real: &str, #[case] same: bool) {
        assert_sameness("x", page, real, same);
    }

    #[rstest]
    #[case::of_bash("", "exit", true)]
    #[case::of_dash(
        "sh: 1: Cannot set tty process group (No such process)",
        "",
        true
    )]
    #[case::of_dash_and_bash(
        "sh: 3: Cannot set tty process group (No such process)",
        "exit",
        true
    )]
    #[case::another_complaint("", "sh: 1: Cannot fork", false)]
    #[case::more_than_that("", "exit\nexit status", false)]
    fn exit_message_of_a_shell_is_not_compared(
        #[case] page: &str,
        #[case] real: &str,
        #[case] same: bool,
    ) {
        assert_sameness("exit", page, real, same);
        // Only if `exit` was typed.
        assert_sameness("x", page, real, false);
    }

    /// Compares two sessions with the same typed line.
    #[track_caller]
    fn assert_sameness(typed: &str, page: &str, real: &str, same: bool) {
        let block = |shown: &str| {
            let end = if shown.is_empty() { "" } else { "\n" };
            let text = format!("```console\n$ {typed}\n{shown}{end}```\n");
            Page::parse(&text).expect("a page").blocks.remove(0)
        };
        let difference = difference(&block(page), &block(real));
        assert_eq!(difference.is_none(), same, "{difference:?}");
    }
}
