//! The figures that the measuring programs hand to the report: JSON in the folder that `OUT` names.

use std::{collections::BTreeMap, env, fs, io, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::statistics::{median, ratio};

/// Everything that was measured.
pub struct Results {
    pub compared: Vec<Measured>,
    pub counts: Counts,
    pub growths: Growths,
    pub storms: Vec<Storm>,
    pub uncached: Vec<Uncached>,
    pub threads: Vec<Threads>,
    pub servers: Vec<Served>,
    /// Instructions of a request, by the name of the stack.
    pub instructions: BTreeMap<String, u64>,
}

impl Results {
    /// Loads what the measuring programs have saved.
    pub fn load() -> io::Result<Self> {
        Ok(Self {
            compared: load("compare")?,
            counts: load("count")?,
            growths: load("growth")?,
            storms: load("storm")?,
            uncached: load("uncached")?,
            threads: load("threads")?,
            servers: load("server")?,
            instructions: load("instructions")?,
        })
    }

    /// Returns the stack of this name among those that `compare` measured.
    pub fn compared(&self, name: &str) -> Option<&Measured> {
        find(&self.compared, name)
    }
}

/// Returns the stack of this name.
pub fn find<'a>(all: &'a [Measured], name: &str) -> Option<&'a Measured> {
    all.iter().find(|stack| stack.name == name)
}

/// Returns the median over the rounds of how much more `a` costs than `b`.
pub fn ratio_of(all: &[Measured], a: &str, b: &str) -> Option<f64> {
    Some(ratio(&find(all, a)?.times, &find(all, b)?.times))
}

/// One stack, measured with others in the same rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    /// Nanoseconds per request in each round.
    pub times: Vec<f64>,
    /// The number of single calls that were timed.
    pub singles: usize,
    /// p50, p99 and p99.9 of single calls, in nanoseconds.
    pub percentiles: [Option<f64>; 3],
}

impl Measured {
    /// Returns a stack of which no single calls were timed.
    pub fn of_times(name: String, times: Vec<f64>) -> Self {
        Self {
            name,
            times,
            singles: 0,
            percentiles: [None; 3],
        }
    }

    /// Returns the median over the rounds, in nanoseconds.
    pub fn ns(&self) -> f64 {
        median(&self.times)
    }
}

/// Hits among this many cached sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Growth {
    pub sessions: usize,
    /// `uniform` or `Zipf`.
    pub order: String,
    /// `cold` or `warm`.
    pub warmth: String,
    pub stacks: Vec<Measured>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Growths {
    pub growths: Vec<Growth>,
    /// A hit for a customer with metadata, and without.
    pub metadata: Vec<Measured>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Allocations {
    pub name: String,
    pub median: u64,
    pub mean: f64,
}

/// Live bytes of one cached session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    pub name: String,
    pub sessions: usize,
    pub total: f64,
    /// The session itself.
    pub payload: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub allocations: Vec<Allocations>,
    pub memory: Vec<Memory>,
}

/// Hits while other sessions are revoked, and while none are: nanoseconds in each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    pub name: String,
    pub quiet: Vec<f64>,
    pub storm: Vec<f64>,
    /// Revocations per second.
    pub rate: f64,
    /// Lookups of all rounds under revocations.
    pub lookups: u64,
}

/// Requests of which not all are hits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uncached {
    pub name: String,
    pub stacks: Vec<Measured>,
    /// The share of hits of each stack, from 0 to 1.
    pub hits: Vec<f64>,
}

/// Requests per second of one thread and of two together, in each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Threads {
    pub name: String,
    /// The number of sessions that the two threads ask for: 1 or 2.
    pub sessions: usize,
    pub one: Vec<f64>,
    pub two: Vec<f64>,
    pub pinned: bool,
}

/// A server with one worker, in each round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    pub name: String,
    /// Requests per second.
    pub rates: Vec<f64>,
    /// Microseconds of the server's core per request; the kernel's part is included.
    pub work: Vec<f64>,
    /// The share of the time in which the server had something to do.
    pub busy: Vec<f64>,
}

/// The least share of a round in which the server has something to do. Below it the load limits
/// the rate, not the server.
const AT_WORK: f64 = 0.95;

impl Served {
    /// Returns the median of a figure over the rounds in which the server was kept at work.
    pub fn median_of(&self, figure: impl Fn(&Self) -> &[f64]) -> f64 {
        self.median_beside(self, |server| figure(server).to_vec())
    }

    /// Returns the ratio of a figure to that of another server, over the rounds in which both were
    /// kept at work.
    pub fn ratio_to(&self, other: &Self, figure: impl Fn(&Self) -> &[f64]) -> f64 {
        self.median_beside(other, |server| {
            let both = figure(server).iter().zip(figure(other));
            both.map(|(ours, theirs)| ours / theirs).collect()
        })
    }

    /// Returns the server of this name.
    pub fn find<'a>(all: &'a [Self], name: &str) -> Option<&'a Self> {
        all.iter().find(|server| server.name == name)
    }

    /// Returns the number of rounds in which the load kept the server at work.
    pub fn rounds_at_work(&self) -> usize {
        self.busy.iter().filter(|busy| **busy >= AT_WORK).count()
    }

    fn median_beside(&self, other: &Self, figures: impl Fn(&Self) -> Vec<f64>) -> f64 {
        let figures = figures(self);
        let at_work = self.busy.iter().zip(&other.busy);
        let at_work = at_work.map(|(one, other)| one.min(*other) >= AT_WORK);
        let valid = figures.iter().zip(at_work).filter(|(_, at_work)| *at_work);
        let valid: Vec<_> = valid.map(|(figure, _)| *figure).collect();
        // On a machine without a core to spare there are none.
        median(if valid.is_empty() { &figures } else { &valid })
    }
}

/// Saves results under this name, if there is a folder for them.
pub fn save<T: Serialize>(name: &str, results: &T) -> io::Result<()> {
    match file(name) {
        Some(file) => fs::write(file, serde_json::to_vec(results)?),
        None => Ok(()),
    }
}

/// Loads what was saved under this name, or an empty value.
fn load<T: DeserializeOwned + Default>(name: &str) -> io::Result<T> {
    match file(name).map(fs::read) {
        Some(Ok(json)) => Ok(serde_json::from_slice(&json)?),
        _ => Ok(T::default()),
    }
}

fn file(name: &str) -> Option<PathBuf> {
    env::var_os("OUT").map(|folder| PathBuf::from(folder).join(format!("{name}.json")))
}
