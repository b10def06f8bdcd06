//! What the demos and the examples print.

use std::fs;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;

use crate::common::package;
use crate::target::{Machine, USERS, User, fresh_machine};

/// A row of a report: its fact, a script that prints what a tool says of it
/// outside ("" if none can), and what stands inside: this value; `=` what the
/// tool says there; or `*`, another value that ends with what follows.
pub type Row = (&'static str, &'static str, &'static str);

/// The report of a demo has these rows, and outside again what it had before.
/// The shell that asks the tools becomes the demo, so its PID is the same.
/// Returns the values inside and outside.
#[track_caller]
pub fn assert_report(
    machine: &Machine,
    user: User,
    demo: &str,
    table: &[Row],
) -> Vec<[String; 2]> {
    let ask = table.iter().map(|(_, tool, _)| format!("echo \"$({tool})\"\n"));
    let ask: String = ask.collect();
    let both = machine.sh(user, &format!("{ask}exec {demo}"));
    let mut lines = both.lines();
    let outside: Vec<&str> = lines.by_ref().take(table.len()).collect();
    // It fits on a terminal of 80 columns.
    assert!(both.lines().all(|line| line.len() <= 80), "{both}");
    let title = rows(lines.next().into_iter());
    assert_eq!(title, [["outside", "inside", "outside again"]], "{both}");
    let seen = rows(lines);
    assert_eq!(seen.len(), table.len(), "{both}");
    for (n, (row, (fact, tool, wanted))) in seen.iter().zip(table).enumerate() {
        let inside = || machine.says(user, [demo, "sh", "-c", tool]);
        assert_eq!((row[0], row.len()), (*fact, 4), "{both}");
        if !tool.is_empty() {
            assert_eq!([row[1], row[3]], [outside[n]; 2], "{user}: {fact}");
        }
        match (*wanted, wanted.strip_prefix('*')) {
            ("=", _) => {
                assert_eq!(row[2], inside().trim_end(), "{user}: {fact}");
            }
            (_, Some(end)) => {
                assert!(row[2] != row[1] && row[2].ends_with(end), "{both}");
            }
            _ => assert_eq!(row[2], *wanted, "{user}: {fact}"),
        }
    }
    let values = |row: &Vec<&str>| [row[2], row[1]].map(String::from);
    seen.iter().map(values).collect()
}

/// The cells of each line. A value may hold single spaces: "0 1000 1".
fn rows<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Vec<&'a str>> {
    lines
        .map(|line| line.split("  ").map(str::trim))
        .map(|cells| cells.filter(|cell| !cell.is_empty()).collect())
        .collect()
}

/// For each user the example prints this and nothing on standard error, and
/// the outside is then what it was.
#[track_caller]
pub fn assert_prints(example: &str, text: &str) {
    assert_shows(example, &predicate::eq(text));
}

/// The same for a text that this regular expression describes.
#[track_caller]
pub fn assert_matches(example: &str, lines: &str) {
    let lines = predicate::str::is_match(format!("^{lines}\n$"));
    assert_shows(example, &lines.expect("regex"));
}

/// The same for what the demo's page shows of it.
#[track_caller]
pub fn assert_prints_its_page(demo: &str, example: &str) {
    let page = package().with_file_name(demo).join("README.md");
    let page = fs::read_to_string(page).expect("a page");
    let typed = format!("cargo run -q -p {demo} --example {example}\n");
    let (_, text) = page.split_once(&typed).expect("a session");
    let (text, _) = text.split_once("```").expect("its end");
    assert_prints(example, text);
}

#[track_caller]
fn assert_shows(example: &str, text: &impl Predicate<str>) {
    let machine = fresh_machine();
    let before = machine.traces();
    for user in USERS {
        let output = machine.run(user, [example], b"");
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        output.assert().success().stderr("");
        assert!(text.eval(&seen), "{user}: {example}: {seen}");
        machine.comes_back_to(&before);
    }
}
