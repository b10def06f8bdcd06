//! What a demo prints without COMMAND: a table of what a process saw outside,
//! inside and outside again, and whether that proves isolation.

use std::process::ExitCode;

use super::{Failure, print, read_link};

/// A row of the table: a fact, how a process sees it, and what must hold.
pub struct Row<'a> {
    fact: &'static str,
    look: Box<dyn Fn() -> Result<String, Failure> + 'a>,
    holds: Box<dyn Fn(Seen) -> Outcome + 'a>,
}

/// The values of a row.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "they are the table's columns")]
pub struct Seen<'a> {
    pub outside: &'a str,
    pub inside: &'a str,
    pub again: &'a str,
}

impl Seen<'_> {
    /// Inside it is this, and outside it is again what it was.
    pub fn becomes(self, value: &str) -> bool {
        self.inside == value && self.stays()
    }

    /// Outside it is again what it was.
    pub fn stays(self) -> bool {
        self.again == self.outside
    }
}

/// What a row proves.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// What must hold does.
    Isolated,
    /// It does not.
    NotIsolated,
    /// It could not be tried, and why: a limit, or a call that is forbidden.
    Untried(String),
}

impl From<bool> for Outcome {
    fn from(holds: bool) -> Outcome {
        if holds { Outcome::Isolated } else { Outcome::NotIsolated }
    }
}

/// A row. `look` returns the value that the calling process sees.
pub fn row<'a, O: Into<Outcome>>(
    fact: &'static str,
    look: impl Fn() -> Result<String, Failure> + 'a,
    holds: impl Fn(Seen) -> O + 'a,
) -> Row<'a> {
    let holds = Box::new(move |seen: Seen<'_>| holds(seen).into());
    Row { fact, look: Box::new(look), holds }
}

/// The first row of each demo: which namespace a process is in. `kind` is its
/// name in /proc/self/ns.
pub fn namespace(fact: &'static str, kind: &'static str) -> Row<'static> {
    let look = move || read_link(&format!("/proc/self/ns/{kind}"));
    row(fact, look, |it| it.inside != it.outside && it.stays())
}

/// What this process sees: a value for each row.
///
/// # Errors
/// The first row that cannot be seen: then there is no table.
pub fn look(rows: &[Row]) -> Result<Vec<String>, Failure> {
    rows.iter().map(|row| (row.look)()).collect()
}

/// Prints the table. The status is 0 if all rows hold.
///
/// # Errors
/// 1 if a row does not hold, and 125 if one that might not hold could not be
/// tried.
pub fn verdict(
    rows: &[Row],
    [outside, inside, again]: [&[String]; 3],
) -> Result<ExitCode, Failure> {
    let widths = widths(outside.iter().chain(inside).chain(again));
    print(line(widths, ["", "outside", "inside", "outside again"]))?;
    let (mut broken, mut untried) = (vec![], vec![]);
    for (n, Row { fact, holds, .. }) in rows.iter().enumerate() {
        let [outside, inside, again] =
            [outside, inside, again].map(|it| &*it[n]);
        print(line(widths, [fact, outside, inside, again]))?;
        match holds(Seen { outside, inside, again }) {
            Outcome::Isolated => {}
            Outcome::NotIsolated => {
                broken.push(format!("not isolated: {fact}"));
            }
            Outcome::Untried(why) => {
                untried.push(format!("could not be tried: {fact}: {why}"));
            }
        }
    }
    let status = match (broken.len(), untried.len()) {
        (0, 0) => return Ok(ExitCode::SUCCESS),
        (0, _) => 125,
        _ => 1,
    };
    Err(Failure { status, messages: [broken, untried].concat() })
}

/// Of a fact and of a value. Most values have 18 characters at most; with
/// `cgroup:[4026531835]` the table is still 80 columns wide.
fn widths<'a>(mut values: impl Iterator<Item = &'a String>) -> [usize; 2] {
    let long = values.any(|value| value.chars().count() == 19);
    if long { [17, 19] } else { [18, 18] }
}

/// One line of the table: within 80 columns, as far as the values allow.
fn line(
    [first, other]: [usize; 2],
    [fact, outside, inside, again]: [&str; 4],
) -> String {
    format!("{fact:first$}  {outside:other$}  {inside:other$}  {again}")
}

#[test]
fn line_has_80_columns() {
    let columns = |value: &str| {
        let value = value.to_string();
        let widths = widths([&value].into_iter());
        let line = line(widths, ["cgroup namespace", &value, &value, &value]);
        [line.find(&value), Some(line.len())].map(Option::unwrap_or_default)
    };
    assert_eq!(columns("user:[4026531837]"), [20, 77]);
    assert_eq!(columns("eighteen:[4026531]"), [20, 78]);
    assert_eq!(columns("cgroup:[4026531835]"), [19, 80]);
    assert_eq!(columns(&"x".repeat(20))[0], 20);
}

#[test]
fn row_holds_where_all_of_it_does() {
    let seen = |outside, inside, again| Seen { outside, inside, again };
    assert!(seen("a", "b", "a").becomes("b"));
    assert!(!seen("a", "b", "b").becomes("b"));
    assert!(!seen("a", "c", "a").becomes("b"));
    let holds = |outside, inside, again| {
        (namespace("", "").holds)(seen(outside, inside, again))
    };
    assert_eq!(holds("a", "b", "a"), Outcome::Isolated);
    assert_eq!(holds("a", "a", "a"), Outcome::NotIsolated);
    assert_eq!(holds("a", "b", "c"), Outcome::NotIsolated);
}
