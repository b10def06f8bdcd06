//! What a demo prints without COMMAND: a table of what a process saw outside,
//! inside and outside again, and whether that proves isolation.

use std::process::ExitCode;

use crate::Failure;
use crate::link::print;

/// What a row proves.
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

/// The table. Each column has a value for each row.
pub struct Report<'a> {
    columns: [&'a [String]; 3],
    rows: usize,
    broken: Vec<String>,
    untried: Vec<String>,
}

impl<'a> Report<'a> {
    /// Prints the head of the table.
    pub fn new(
        outside: &'a [String],
        inside: &'a [String],
        again: &'a [String],
    ) -> Result<Report<'a>, Failure> {
        print(line("", "outside", "inside", "outside again"))?;
        let columns = [outside, inside, again];
        Ok(Report { columns, rows: 0, broken: vec![], untried: vec![] })
    }

    /// Prints the next row: a fact, and the next value of each column.
    pub fn row(
        &mut self,
        fact: &str,
        outcome: impl Into<Outcome>,
    ) -> Result<(), Failure> {
        let [outside, inside, again] = self.columns.map(|it| &it[self.rows]);
        print(line(fact, outside, inside, again))?;
        self.rows += 1;
        match outcome.into() {
            Outcome::Isolated => {}
            Outcome::NotIsolated => {
                self.broken.push(format!("not isolated: {fact}"));
            }
            Outcome::Untried(why) => {
                self.untried.push(format!("could not be tried: {fact}: {why}"));
            }
        }
        Ok(())
    }

    /// The status: 0 if all rows hold, 1 if one does not, and 125 if one that
    /// might not hold could not be tried.
    pub fn verdict(self) -> Result<ExitCode, Failure> {
        let status = match (self.broken.len(), self.untried.len()) {
            (0, 0) => return Ok(ExitCode::SUCCESS),
            (0, _) => 125,
            _ => 1,
        };
        let messages = [self.broken, self.untried].concat();
        Err(Failure { status, messages })
    }
}

/// One line of the table: within 80 columns, as far as the values allow.
fn line(fact: &str, outside: &str, inside: &str, again: &str) -> String {
    format!("{fact:18}  {outside:18}  {inside:18}  {again}")
}
