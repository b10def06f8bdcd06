//! What a demo says without COMMAND, to be checked against other tools.

use std::collections::BTreeMap;

use assert_cmd::assert::OutputAssertExt;

use crate::ground::{Outside, User};

/// Each row by its fact: what it was outside, inside, and outside again.
pub fn report(
    outside: &Outside,
    user: User,
    demo: &str,
) -> BTreeMap<String, [String; 3]> {
    let output = outside.run(user, [demo], b"");
    let output = output.assert().success().stderr("").get_output().clone();
    let text = String::from_utf8(output.stdout).expect("text");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        // A value may hold single spaces: "0 1000 1".
        let cells = line.split("  ").map(str::trim).filter(|it| !it.is_empty());
        let mut cells: Vec<String> = cells.map(String::from).collect();
        if line.starts_with(' ') {
            assert_eq!(cells, ["outside", "inside", "outside again"]);
            continue;
        }
        let values = cells.split_off(1).try_into().expect("three columns");
        rows.insert(cells.remove(0), values);
    }
    rows
}
