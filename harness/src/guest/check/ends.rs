//! The rows about how a container starts and ends. Each function starts one or
//! two, and answers for one row or more.

use std::io;
use std::path::Path;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use super::Check;
use super::container::{Container, SOON, START, fault};
use super::inside::{Inside, ORPHAN};
use super::looks::SHARED;
use super::proc::NAMESPACES;
use super::tap::Verdict;
use crate::guest::spawn::{Kind, Streams};

type Rows = io::Result<Vec<Verdict>>;

const SLEEP: &str = "sleep";
const SHELL: &str = "sh";

impl Check {
    /// Starts `PREFIX COMMAND`, at pipes.
    pub fn start(&self, command: &[&str]) -> io::Result<Container> {
        let closed = [false; 3];
        self.start_at(Kind::Pipes { input: true, closed }, command)
    }

    fn start_at(&self, kind: Kind, command: &[&str]) -> io::Result<Container> {
        let name = Path::new(self.folder).join(command[0]);
        let name = name.to_string_lossy();
        let command = [&[&*name], &command[1..]].concat();
        Container::start(&self.prefix, &command, kind)
    }

    /// Waits until no process of the container is left, PREFIX included.
    /// Returns those that are.
    fn left(&self, container: &mut Container) -> Option<String> {
        let gone = self.outside.wait(SOON, || {
            container.ended() && self.outside.strays().is_empty()
        });
        let strays = self.outside.strays();
        (!gone).then(|| format!("{} goes on", self.outside.names(&strays)))
    }

    /// Whether something but processes is left. They are killed.
    fn nothing_left(&mut self) -> io::Result<Verdict> {
        Ok(Verdict::unless(self.outside.put_back()?))
    }

    /// The container that all the rows before have looked at.
    pub fn sigterm(&mut self) -> Rows {
        let Some(mut container) = self.running.take() else {
            return Err(io::Error::other("it does not run any more"));
        };
        container.signal(Signal::SIGTERM);
        let all = Verdict::unless(self.left(&mut container));
        Ok(vec![all, self.nothing_left()?])
    }

    /// Two containers at once, which are killed.
    pub fn two(&mut self) -> Rows {
        let outside = &self.outside;
        let mut first = self.start(&[SLEEP, "987654002"])?;
        let one = first.find(outside);
        let mut second = self.start(&[SLEEP, "987654003"])?;
        let two = second.find(outside);
        let beside = Verdict::unless(match (one, two) {
            (None, _) => Some(format!("not even one: {}", first.words())),
            (_, None) => {
                Some(format!("the second does not start: {}", second.words()))
            }
            (Some(one), _) if outside.proc.argv(one).is_empty() => {
                Some("the first has ended".into())
            }
            (Some(one), Some(two)) => self.shared(one, two),
        });
        first.signal(Signal::SIGKILL);
        second.signal(Signal::SIGKILL);
        let process = Verdict::unless(self.left(&mut first));
        Ok(vec![beside, process, self.nothing_left()?])
    }

    /// The namespaces that two containers share, and not with the outside.
    fn shared(&self, one: i32, two: i32) -> Option<String> {
        let proc = &self.outside.proc;
        let id = |pid: i32, name| proc.namespace(&pid.to_string(), name);
        let shared = NAMESPACES.into_iter().filter(|name| {
            let id = (id(one, name), id(two, name));
            id.0 == id.1 && id.0 != proc.namespace("self", name)
        });
        let shared = shared.collect::<Vec<_>>().join(", ");
        (!shared.is_empty()).then(|| format!("they share: {shared}"))
    }

    /// A COMMAND that does not end by SIGTERM, but says that it got it.
    pub fn handler(&mut self) -> Rows {
        // PREFIX may print COMMAND's words: what it says is not among them.
        let script = "trap 'echo han\"\"dled; exit 9' TERM; read line";
        let mut container = self.start(&[SHELL, "-c", script])?;
        let verdict = match container.find(&self.outside) {
            None => Verdict::NotOk(container.words()),
            Some(_) => {
                container.signal(Signal::SIGTERM);
                let handled = self.outside.wait(SOON, || {
                    container.ended();
                    container.words().contains("handled")
                });
                let reason = "its handler does not run";
                Verdict::unless((!handled).then_some(reason))
            }
        };
        Ok(vec![verdict])
    }

    pub fn terminal(&mut self) -> Rows {
        let terminal = Kind::Terminal(Uid::from_raw(0), 0, 0);
        let mut container = self.start_at(terminal, &[SLEEP, "987654003"])?;
        let verdict = match container.find(&self.outside) {
            Some(_) => {
                container.streams = Streams::default();
                Verdict::unless(self.left(&mut container))
            }
            None => Verdict::NotOk(format!(
                "it does not start at a terminal: {}",
                container.words()
            )),
        };
        Ok(vec![verdict])
    }

    /// COMMAND ends by a fault, and leaves a process behind in its PID
    /// namespace. Its own row, about that fault, comes last.
    pub fn background(&mut self) -> Rows {
        let mut container = self.start(&[SLEEP, "987654004"])?;
        let outside = &self.outside;
        let found = container.find(outside);
        let inside = found.and_then(|pid| Inside::of(pid, outside).ok());
        let Some(inside) = inside else {
            let why = container.words();
            self.death = Some(Verdict::NotOk(why.clone()));
            return Ok(vec![Verdict::NotOk(why)]);
        };
        let has_pids = inside.has("pid");
        if has_pids {
            inside.orphan(stay)?;
        }
        fault(inside.pid)?;
        let left = self.left(&mut container);
        // An init that waits for all ends now.
        if let Some(orphan) = outside.named(ORPHAN) {
            let _ = kill(Pid::from_raw(orphan), Signal::SIGKILL);
        }
        outside.wait(START, || container.ended());
        let told = container.told();
        let is_right = told == "status 139" || told == "killed by SIGSEGV";
        self.death = Some(Verdict::unless((!is_right).then_some(told)));
        Ok(vec![match has_pids {
            true => Verdict::unless(left),
            false => Verdict::Skip(SHARED.into()),
        }])
    }

    pub fn status_and_streams(&mut self) -> Rows {
        let script = "read one; read two; echo \"out $one $two\"; echo err >&2
            read three || echo eof; exit 7";
        let mut container = self.start(&[SHELL, "-c", script])?;
        container.feed("1\n2\n");
        self.outside.wait(START, || container.ended());
        let end = container.end.and_then(|it| it.code());
        let told = (end != Some(7)).then(|| container.told());
        let [output, errors] =
            container.said.each_ref().map(|it| String::from_utf8_lossy(it));
        let passed = output == "out 1 2\neof\n" && errors == "err\n";
        let streams =
            (!passed).then(|| format!("output {output:?}, errors {errors:?}"));
        let process = self.left(&mut container);
        let rest = self.outside.put_back()?;
        let left = [process, rest].into_iter().flatten().collect::<Vec<_>>();
        let left = (!left.is_empty()).then(|| left.join("; "));
        Ok([left, told, streams].map(Verdict::unless).into())
    }

    pub fn missing(&mut self) -> Rows {
        let mut container = self.start(&["/no/such/command"])?;
        container.feed("");
        self.outside.wait(START, || container.ended());
        let told = container.told();
        Ok(vec![Verdict::unless(match container.end {
            None => Some(told),
            Some(end) if end.success() => Some(told),
            Some(_) if container.words().is_empty() => {
                Some(format!("{told}, without a word"))
            }
            Some(_) => None,
        })])
    }

    /// What `background` has seen.
    pub fn sigsegv(&mut self) -> Rows {
        let gone = || io::Error::other("no COMMAND was there");
        Ok(vec![self.death.take().ok_or_else(gone)?])
    }
}

/// Stays, with no descriptor open that somebody waits for.
#[expect(unsafe_code, reason = "closes what it does not know")]
fn stay() {
    for fd in 0..256 {
        // SAFETY: this process uses no descriptor any more.
        unsafe { libc::close(fd) };
    }
    let _ = prctl::set_name(ORPHAN);
    loop {
        nix::unistd::pause();
    }
}
