//! Reads what a demo prints without COMMAND.

use std::collections::BTreeMap;

use assert_cmd::assert::OutputAssertExt;

use crate::target::{Machine, User};

/// The report's rows, by the fact with which each begins: the values outside,
/// inside, and outside again.
pub fn report(
    machine: &Machine,
    user: User,
    demo: &str,
) -> BTreeMap<String, [String; 3]> {
    let output = machine.run(user, [demo], b"");
    let output = output.assert().success().stderr("").get_output().clone();
    let text = String::from_utf8(output.stdout).expect("text");
    let mut table = rows(text.lines()).into_iter();
    let title = table.next().expect("a title");
    assert_eq!(title, ["outside", "inside", "outside again"]);
    let fact = |row: Vec<&str>| {
        let row: Vec<String> = row.into_iter().map(String::from).collect();
        let (fact, values) = row.split_first().expect("a fact");
        let values = values.to_vec().try_into().expect("three columns");
        (fact.clone(), values)
    };
    table.map(fact).collect()
}

/// The cells of each line. A value may hold single spaces: "0 1000 1".
pub fn rows<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Vec<&'a str>> {
    lines
        .map(|line| line.split("  ").map(str::trim))
        .map(|cells| cells.filter(|cell| !cell.is_empty()).collect())
        .collect()
}
