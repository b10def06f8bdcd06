//! Compares two sessions. They are the same if they differ only in values that
//! the machine chooses, such as PIDs. Values that are equal in one session must
//! be equal in the other: one PID twice is not the same as two PIDs.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

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

/// The keys that a turn shows.
pub fn keys(turn: &Turn) -> impl Iterator<Item = &str> {
    let words = turn.output.iter().flat_map(|line| line.split_whitespace());
    words.filter(|word| is_key(word))
}

/// The first lines that differ: the page's after `-`, the machine's after `+`.
pub fn difference(page: &Block, real: &Block) -> Option<String> {
    let (page, real) = (plain(page), plain(real));
    let lines = page.len().max(real.len());
    let at = (0..lines).find(|&at| {
        page.get(at).map(|line| &line.1) != real.get(at).map(|line| &line.1)
    })?;
    let shown = |sign: char, lines: &[(String, String)]| {
        let lines = lines.iter().take(8);
        lines.map(|(line, _)| format!("{sign}{line}\n")).collect::<String>()
    };
    let head = "the page -, the terminal +\n".to_string();
    let before = shown(' ', &page[at.saturating_sub(3)..at]);
    Some(head + &before + &shown('-', &page[at..]) + &shown('+', &real[at..]))
}

/// Each line as it is, and with names for the values that the machine chose.
fn plain(block: &Block) -> Vec<(String, String)> {
    let mut names = Names::default();
    let mut lines = Vec::new();
    for turn in &block.turns {
        let typed = format!("{} {}", turn.prompt, turn.typed);
        let plain = names.line(&typed, &[], false);
        lines.push((typed, plain));
        let pids = ["$$", "$!"].iter().any(|it| turn.typed.contains(it));
        let mut heads = Vec::new();
        for line in &turn.output {
            if turn.typed == "exit" && is_exit_message(line) {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            // A row of a report may have such a word, too, but it has digits.
            let is_heading = !line.contains(|it: char| it.is_ascii_digit());
            if is_heading && (words.contains(&"PID") || words.contains(&"ID")) {
                heads = words;
            }
            lines.push((line.clone(), names.line(line, &heads, pids)));
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

/// The values within a word, each behind the text by which it is known.
static VALUES: LazyLock<[(Kind, Regex); 7]> = LazyLock::new(|| {
    [
        (Kind::Address, r"^()((?:[0-9a-f]{2}:){5}[0-9a-f]{2}|fe80::.*)$"),
        (Kind::Time, r"^()(\d\d(?::\d\d)+)$"),
        (Kind::Release, r"^()(\d[^.]*\.[^.]*\..*-.*)$"),
        (Kind::Namespace, r"(:\[)(\d+)"),
        (Kind::Mount, r"((?:shared|master):)(\d+)"),
        (Kind::Pid, r"(/proc/)(\d+)"),
        (Kind::Pid, r"(.\()(\d+)"),
    ]
    .map(|(kind, known)| (kind, Regex::new(known).expect("an expression")))
});

/// The machine's values so far, each with its number among those of its kind.
#[derive(Debug, Default)]
struct Names(HashMap<(Kind, String), usize>);

impl Names {
    fn name(&mut self, kind: Kind, word: &str) -> String {
        match kind {
            Kind::Pid if ["0", "1"].contains(&word) => return word.into(),
            Kind::Address if ["00:", "ff:"].contains(&&word[..3]) => {
                return word.into();
            }
            Kind::Time | Kind::Release => return format!("{kind:?}"),
            _ => {}
        }
        let next = self.0.iter().filter(|it| it.0.0 == kind).count() + 1;
        let number = self.0.entry((kind, word.to_string())).or_insert(next);
        format!("{kind:?}{number}")
    }

    /// The line with names for the machine's values. If there are any, single
    /// spaces replace the columns, which a longer number would move. So they do
    /// below a heading: the width of a column depends on the largest possible
    /// number, which differs between machines.
    fn line(&mut self, line: &str, heads: &[&str], pids: bool) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let plain: Vec<String> = (0..words.len())
            .map(|at| match kind_of_word(&words, at, heads, pids) {
                Some(kind) => self.name(kind, words[at]),
                None => self.parts(words[at]),
            })
            .collect();
        match heads.is_empty() && plain == words {
            true => line.to_string(),
            false => plain.join(" "),
        }
    }

    /// The same for the values within a word.
    fn parts(&mut self, word: &str) -> String {
        VALUES.iter().fold(word.to_string(), |word, (kind, known)| {
            let named = known.replace_all(&word, |it: &Captures| {
                format!("{}{}", &it[1], self.name(*kind, &it[2]))
            });
            named.into()
        })
    }
}

/// The kind of a word, if its place in the line says that all of it is a value
/// that the machine chose.
fn kind_of_word(
    words: &[&str],
    at: usize,
    heads: &[&str],
    pids: bool,
) -> Option<Kind> {
    if is_key(words[at]) {
        return Some(Kind::Key);
    }
    if !words[at].bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    match words {
        [_] if pids => return Some(Kind::Pid),
        // Three numbers and a path: a line of mountinfo.
        [_, _, third, fourth, ..]
            if at < 2 && third.contains(':') && fourth.starts_with('/') =>
        {
            return Some(Kind::Mount);
        }
        // The rows of the reports.
        ["PID" | "NSpid" | "NSpid:" | "PPid:" | "/proc/self", ..]
        | ["parent", "PID", ..] => return Some(Kind::Pid),
        ["processes", "in", "/proc", ..] => return Some(Kind::Count),
        _ => {}
    }
    match *heads.get(at)? {
        "PID" | "PPID" => Some(Kind::Pid),
        "NS" => Some(Kind::Namespace),
        "ID" | "PARENT" => Some(Kind::Mount),
        "C" => Some(Kind::Time), // Processor use, in percent.
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

    /// The difference of two sessions with the same typed line.
    fn of(typed: &str, page: &str, real: &str) -> Option<String> {
        let block = |shown: &str| {
            let end = if shown.is_empty() { "" } else { "\n" };
            let text = format!("```console\n$ {typed}\n{shown}{end}```\n");
            Page::parse(&text).expect("a page").blocks.remove(0)
        };
        difference(&block(page), &block(real))
    }

    #[test]
    fn what_the_machine_chooses_is_not_compared() {
        for (what, page, real) in [
            ("other PIDs", "sh(48)───ps(49)", "sh(5)───ps(6)"),
            ("columns", "  PID CMD\n  99 sh", "  PID CMD\n 100 sh"),
            ("wider columns", "  PID CMD\n  99 sh", "    PID CMD\n     99 sh"),
            ("wider, of PID 1", "  PID CMD\n  1 a", "    PID CMD\n    1 a"),
            ("a report", "PID  92  1  92", "PID  95  1  95"),
            ("namespaces", "uts:[4026531838]", "uts:[4026532190]"),
            ("processes", "/proc/48/ns", "/proc/5/ns"),
            ("mounts", "shared:5 master:3", "shared:7 master:4"),
            ("a mount", "36 29 0:32 / /proc", "35 30 0:32 / /proc"),
            ("a device", "8a:11:22:33:44:55", "9b:11:22:33:44:55"),
            ("a release", "6.1.0-49-amd64", "7.0.12-1"),
            ("a key", "0x8990b7ae", "0x11112222"),
            ("times", "PID TIME\n9 00:00:00", "PID TIME\n9 01:02:03"),
        ] {
            assert_eq!(of("x", page, real), None, "{what}");
        }
    }

    #[test]
    fn all_else_is_compared() {
        for (what, page, real) in [
            ("two that were one", "sh(48)───ps(48)", "sh(5)───ps(6)"),
            ("one that was two", "sh(48)───ps(49)", "sh(5)───ps(5)"),
            ("PID 1 as it is", "sh(1)", "sh(2)"),
            ("a row", "  PID CMD\n  1 a b", "  PID CMD\n  1 ab"),
            ("a wrong report", "PID  92  1  92", "PID  95  1  96"),
            ("its columns", "parent PID  0\nuid  1", "parent PID  0\nuid 1"),
            ("a heading", "  PID CMD\n  99 sh", "  PID COMMAND\n  99 sh"),
            ("a command", "  PID CMD\n  99 sh", "  PID CMD\n 100 ps"),
            ("an id of a user", "uid=1000(reader)", "uid=1001(reader)"),
            ("a map", "0 1000 1", "0 1001 1"),
            ("a number", "1000", "1001"),
            ("lo as a device", "00:00:00:00:00:00", "8a:11:22:33:44:55"),
            ("a broadcast", "ff:ff:ff:ff:ff:ff", "ff:ff:ff:ff:ff:fe"),
            ("no key", "0x00000000", "0x11112222"),
            ("an address", "127.0.0.1/8", "127.0.0.2/8"),
            ("columns that nothing moves", "a  b", "a b"),
            ("an extra line", "a", "a\na"),
        ] {
            assert!(of("x", page, real).is_some(), "{what}");
        }
    }

    #[test]
    fn exit_message_of_a_shell_is_not_compared() {
        let dash = "sh: 1: Cannot set tty process group (No such process)";
        for (page, real) in [("", "exit"), (dash, ""), (dash, "exit")] {
            assert_eq!(of("exit", page, real), None);
            // Only if `exit` was typed.
            assert!(of("x", page, real).is_some());
        }
        for real in ["sh: 1: Cannot fork", "exit\nexit status"] {
            assert!(of("exit", "", real).is_some(), "{real}");
        }
    }
}
