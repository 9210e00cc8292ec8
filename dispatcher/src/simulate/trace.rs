//! A trace: per-minute counts, durations and memory of functions, in the three CSV files of the Azure Public Dataset's
//! Azure Functions traces (Shahrad et al., 2020).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use csv::StringRecord;

/// At most this many faults are told at once.
const FAULTS_MOST: usize = 20;
/// A minute's count beyond this is taken for a fault of the file.
const COUNT_MOST: u32 = 1_000_000;
/// A duration beyond a day, or more than a tebibyte of memory, as well.
const MS_MOST: f64 = 86_400_000.0;
const MB_MOST: f64 = 1_048_576.0;

/// The three files: what is said of each, its short name, and how its name starts in the published data set.
const INVOCATIONS: [&str; 2] = ["invocations.csv", "invocations_per_function"];
const DURATIONS: [&str; 2] = ["durations.csv", "function_durations_percentiles"];
const MEMORY: [&str; 2] = ["memory.csv", "app_memory_percentiles"];

/// What happened, function by function.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// In the order of the file of counts; never empty.
    pub functions: Vec<TraceFunction>,
    /// How many minutes; the same for every function; at least 1.
    pub minutes: usize,
    /// Functions left out because their durations or memory are not known, when that was allowed.
    pub incomplete: usize,
}

/// One function of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceFunction {
    /// `HashFunction` as it is in the files.
    pub name: String,
    /// Events per minute.
    pub counts: Vec<u32>,
    pub durations: Durations,
    /// Of one worker, in MB: the average of the function's application.
    pub memory_mb: f64,
}

/// A spread of durations: its percentiles, ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct Durations {
    /// (part from 0 to 1, milliseconds), both ascending; at least one.
    points: Vec<(f64, f64)>,
}

impl Durations {
    /// From percentiles: (part from 0 to 1, milliseconds). `None` unless both ascend.
    pub fn new(points: Vec<(f64, f64)>) -> Option<Self> {
        let ascends = points.is_sorted_by(|(part, ms), (next, more)| part < next && ms <= more);
        (ascends && !points.is_empty()).then_some(Self { points })
    }

    /// The duration below which the given part of them lies, rounded up to a millisecond, at least one. Between two
    /// percentiles it grows by equal factors, because durations are skewed: a line from 1 ms to 1,000 ms would have its
    /// middle at 500.
    pub fn at(&self, part: f64) -> Duration {
        let above = self.points.partition_point(|&(known, _)| known < part);
        let before = above.checked_sub(1).and_then(|before| self.points.get(before));
        let ms = match (before, self.points.get(above)) {
            (Some(&(from, low)), Some(&(to, high))) => {
                let (low, high) = (low.max(1.0), high.max(1.0));
                low * (high / low).powf((part - from) / (to - from))
            }
            (Some(&(_, ms)), None) | (None, Some(&(_, ms))) => ms,
            (None, None) => 1.0,
        };
        Duration::from_millis(1).mul_f64(ms.max(1.0).ceil())
    }
}

/// What is wrong with a trace, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; `None`: the file as a whole.
    pub line: Option<u64>,
    /// Lower case, with what to do.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl Trace {
    /// Reads the three files of a folder: `invocations.csv`, `durations.csv` and `memory.csv`, or the names of the published
    /// data set. A function without durations or memory is a fault, unless `skip_incomplete` leaves it out.
    ///
    /// # Errors
    /// Everything that is wrong with the files, up to twenty faults.
    pub fn read(folder: &Path, skip_incomplete: bool) -> Result<Self, Vec<Fault>> {
        let mut files = Vec::new();
        let mut faults = Vec::new();
        for names in [INVOCATIONS, DURATIONS, MEMORY] {
            match find(folder, names).and_then(|path| Table::read(&path)) {
                Ok(table) => files.push(table),
                Err(fault) => faults.push(fault),
            }
        }
        match <[Table; 3]>::try_from(files) {
            Ok(tables) if faults.is_empty() => Self::of(tables, skip_incomplete),
            _ => Err(faults),
        }
    }

    /// Reads the texts of the three files, for tests and for traces that are made.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(invocations: &str, durations: &str, memory: &str) -> Result<Self, Vec<Fault>> {
        let texts = [(INVOCATIONS, invocations), (DURATIONS, durations), (MEMORY, memory)];
        let tables: Result<Vec<_>, _> =
            texts.map(|([name, _], text)| Table::parse(name.into(), text)).into_iter().collect();
        let tables = tables.map_err(|fault| vec![fault])?;
        match <[Table; 3]>::try_from(tables) {
            Ok(tables) => Self::of(tables, false),
            Err(_) => Err(Vec::new()),
        }
    }

    fn of([invocations, durations, memory]: [Table; 3], skip_incomplete: bool) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let minutes = faults.take(invocations.minutes());
        let spreads = faults.take(durations.percentiles());
        let averages = faults.take(memory.columns(&["AverageAllocatedMb"]));
        let (Some(minutes), Some(spreads), Some(averages)) = (minutes, spreads, averages) else {
            return Err(faults.found);
        };
        let counts = invocations.rows(&mut faults, Identity::Function, |row| {
            minutes.iter().map(|&column| row.count(column)).collect::<Result<Vec<u32>, Fault>>()
        });
        let durations_of = durations.rows(&mut faults, Identity::Function, |row| {
            let points: Result<Vec<_>, Fault> =
                spreads.iter().map(|&(part, column)| Ok((part, row.number(column, MS_MOST)?))).collect();
            Durations::new(points?).ok_or_else(|| row.fault("the percentiles do not ascend: mend the row".to_owned()))
        });
        let per = if memory.column("HashFunction").is_some() { Identity::Function } else { Identity::Application };
        let memory_of = memory.rows(&mut faults, per, |row| {
            let column = averages.first().copied().unwrap_or_default();
            row.number(column, MB_MOST)
        });

        let mut functions = Vec::new();
        let mut incomplete = 0;
        for (id, (line, counts)) in counts.in_order() {
            let spread = durations_of.get(&id);
            let mb = memory_of.get(&per.of(&id));
            match (spread, mb) {
                (Some((_, spread)), Some(&(_, memory_mb))) => {
                    functions.push(TraceFunction { name: id.function, counts, durations: spread.clone(), memory_mb });
                }
                _ if skip_incomplete => incomplete += 1,
                (spread, _) => {
                    let file = if spread.is_none() { &durations.file } else { &memory.file };
                    let what = format!(
                        "function {} has no row in {}: add one, remove the function, or allow incomplete ones",
                        id.function,
                        file.display()
                    );
                    faults.add(Fault { file: invocations.file.clone(), line: Some(line), what });
                }
            }
        }
        if functions.is_empty() && faults.found.is_empty() {
            let what = "no function is left: give a trace with at least one row".to_owned();
            faults.add(Fault { file: invocations.file.clone(), line: None, what });
        }
        if !faults.found.is_empty() {
            return Err(faults.found);
        }
        Ok(Self { functions, minutes: minutes.len(), incomplete })
    }
}

/// Whose row it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    owner: String,
    application: String,
    function: String,
}

/// What tells the rows of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Function,
    /// The published data set has memory per application.
    Application,
}

impl Identity {
    fn of(self, id: &Id) -> Id {
        match self {
            Self::Function => id.clone(),
            Self::Application => Id { function: String::new(), ..id.clone() },
        }
    }
}

#[derive(Default)]
struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    fn add(&mut self, fault: Fault) {
        if self.found.len() < FAULTS_MOST {
            self.found.push(fault);
        }
    }

    fn take<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.add(fault)).ok()
    }
}

/// The rows of a file by whose they are: (line, value).
struct Rows<T> {
    by_id: BTreeMap<Id, (u64, T)>,
}

impl<T> Rows<T> {
    fn get(&self, id: &Id) -> Option<&(u64, T)> {
        self.by_id.get(id)
    }

    fn in_order(self) -> Vec<(Id, (u64, T))> {
        let mut rows: Vec<_> = self.by_id.into_iter().collect();
        rows.sort_by_key(|(_, (line, _))| *line);
        rows
    }
}

/// A CSV file in memory.
struct Table {
    file: PathBuf,
    head: StringRecord,
    records: Vec<StringRecord>,
}

impl Table {
    fn read(path: &Path) -> Result<Self, Fault> {
        let unreadable = |what: String| Fault { file: path.to_owned(), line: None, what };
        let text = std::fs::read(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(text).map_err(|_| unreadable("is not UTF-8 text: give a CSV file".to_owned()))?;
        Self::parse(path.to_owned(), &text)
    }

    fn parse(file: PathBuf, text: &str) -> Result<Self, Fault> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let fault = |error: csv::Error| {
            let line = error.position().map(csv::Position::line);
            Fault { file: file.clone(), line, what: format!("is not CSV: {error}") }
        };
        let head = reader.headers().map_err(fault)?.clone();
        let records: Result<Vec<_>, _> = reader.records().collect();
        Ok(Self { records: records.map_err(fault)?, head, file })
    }

    fn fault(&self, line: Option<u64>, what: String) -> Fault {
        Fault { file: self.file.clone(), line, what }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.head.iter().position(|known| known == name)
    }

    fn columns(&self, names: &[&str]) -> Result<Vec<usize>, Fault> {
        let found = names.iter().map(|name| {
            let missing =
                || self.fault(Some(1), format!("the column {name} is missing: the first line names the columns"));
            self.column(name).ok_or_else(missing)
        });
        found.collect()
    }

    /// The columns whose names are numbers: one for each minute, without a gap.
    fn minutes(&self) -> Result<Vec<usize>, Fault> {
        let named = self.head.iter().enumerate().filter_map(|(at, name)| Some((name.parse::<u64>().ok()?, at)));
        let minutes: Vec<_> = named.collect();
        if minutes.is_empty() {
            let what = "no column is named after a minute: the columns of the counts are named 1, 2, 3, …".to_owned();
            return Err(self.fault(Some(1), what));
        }
        let gap = minutes.windows(2).find_map(|pair| match pair {
            [(this, _), (next, _)] if this.checked_add(1) != Some(*next) => Some((*this, *next)),
            _ => None,
        });
        match gap {
            Some((this, next)) => {
                Err(self.fault(Some(1), format!("minute {next} follows minute {this}: put them in order")))
            }
            None => Ok(minutes.into_iter().map(|(_, at)| at).collect()),
        }
    }

    /// The columns `percentile_Average_N`, as (N / 100, column), ascending.
    fn percentiles(&self) -> Result<Vec<(f64, usize)>, Fault> {
        let named = self.head.iter().enumerate().filter_map(|(at, name)| {
            let part = name.strip_prefix("percentile_Average_")?.parse::<u8>().ok().filter(|&part| part <= 100)?;
            Some((f64::from(part) / 100.0, at))
        });
        let mut found: Vec<_> = named.collect();
        found.sort_by(|(this, _), (other, _)| this.total_cmp(other));
        if found.is_empty() {
            let what =
                "no column is named percentile_Average_N: durations are read from those, in milliseconds".to_owned();
            return Err(self.fault(Some(1), what));
        }
        Ok(found)
    }

    fn rows<T>(&self, faults: &mut Faults, per: Identity, read: impl Fn(&Row<'_>) -> Result<T, Fault>) -> Rows<T> {
        let mut rows = Rows { by_id: BTreeMap::new() };
        let mut names = vec!["HashOwner", "HashApp"];
        if per == Identity::Function {
            names.push("HashFunction");
        }
        let Some(columns) = faults.take(self.columns(&names)) else { return rows };
        for record in &self.records {
            let row = Row { table: self, record };
            let Some((id, value)) = faults.take(row.id(&columns).and_then(|id| Ok((id, read(&row)?)))) else {
                continue;
            };
            if let Some((before, _)) = rows.by_id.get(&id) {
                faults.add(row.fault(format!("the same function stands in line {before}: keep one of them")));
                continue;
            }
            rows.by_id.insert(id, (row.line(), value));
        }
        rows
    }
}

struct Row<'a> {
    table: &'a Table,
    record: &'a StringRecord,
}

impl Row<'_> {
    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    fn fault(&self, what: String) -> Fault {
        self.table.fault(Some(self.line()), what)
    }

    fn field(&self, column: usize) -> Result<&str, Fault> {
        self.record.get(column).ok_or_else(|| {
            let (has, head) = (self.record.len(), self.table.head.len());
            self.fault(format!("the row has {has} columns and the first line {head}: add what is missing"))
        })
    }

    fn name(&self, column: usize) -> &str {
        self.table.head.get(column).unwrap_or_default()
    }

    fn id(&self, columns: &[usize]) -> Result<Id, Fault> {
        let mut parts = columns.iter().map(|&column| self.field(column).map(str::to_owned));
        let mut next = || parts.next().unwrap_or_else(|| Ok(String::new()));
        Ok(Id { owner: next()?, application: next()?, function: next()? })
    }

    fn count(&self, column: usize) -> Result<u32, Fault> {
        let field = self.field(column)?;
        field.parse().ok().filter(|&count| count <= COUNT_MOST).ok_or_else(|| {
            self.fault(format!(
                "minute {} holds {field:?}: write how many events came, a whole number up to {COUNT_MOST}",
                self.name(column)
            ))
        })
    }

    fn number(&self, column: usize, most: f64) -> Result<f64, Fault> {
        let field = self.field(column)?;
        field.parse().ok().filter(|number| (0.0..=most).contains(number)).ok_or_else(|| {
            self.fault(format!("{} holds {field:?}: write a number from 0 to {most}", self.name(column)))
        })
    }
}

/// The file of a folder that is named so, or the only one whose name starts so.
fn find(folder: &Path, [name, prefix]: [&str; 2]) -> Result<PathBuf, Fault> {
    let short = folder.join(name);
    if short.is_file() {
        return Ok(short);
    }
    let fault = |what: String| Fault { file: folder.to_owned(), line: None, what };
    let entries = std::fs::read_dir(folder)
        .map_err(|error| fault(format!("cannot be read: {error}; name a folder that holds the trace's files")))?;
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(fault(format!("holds neither {name} nor a file whose name starts with {prefix}: add it"))),
        several => {
            Err(fault(format!("holds {} files whose names start with {prefix}: leave one of them", several.len())))
        }
    }
}
