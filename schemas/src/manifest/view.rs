//! A look at one table of the document: typed values by key, and a fault for each that is not what the key asks for.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, nearest, position};
use super::keys::{Flag, Key, Plain, Ranged, Table};
use super::{bytes, duration};

/// A value was there and is faulty; the fault is noted.
pub(super) struct Faulty;

/// `Ok(None)`: the key is absent.
pub(super) type Found<T> = Result<Option<T>, Faulty>;

/// The document and the faults that were found in it.
pub(super) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
    faults: RefCell<Vec<(usize, Fault)>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, faults: RefCell::default() }
    }

    pub(super) fn fault(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Faulty {
        let (line, column) = position(self.text, span.start);
        let fault = Fault { file: self.file.to_owned(), line, column, message: message.into(), help: help.into() };
        self.note(span, fault)
    }

    /// Notes a fault of another file, named where `span` is.
    pub(super) fn note(&self, span: Range<usize>, fault: Fault) -> Faulty {
        self.faults.borrow_mut().push((span.start, fault));
        Faulty
    }

    /// The faults in the order of the text.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|(offset, _)| *offset);
        faults.into_iter().map(|(_, fault)| fault).collect()
    }
}

/// One table.
pub(super) struct View<'d, 'i> {
    pub(super) document: &'d Document<'d>,
    /// As it stands between brackets: `functions.x.retry`.
    path: String,
    table: &'d DeTable<'i>,
    /// Where the table begins, for what is missing in it.
    span: Range<usize>,
}

impl<'d, 'i> View<'d, 'i> {
    /// Opens a table and notes a fault for every key that it may not have.
    pub(super) fn open(
        document: &'d Document<'d>,
        path: String,
        table: &'d DeTable<'i>,
        span: Range<usize>,
        known: &[Key],
    ) -> Self {
        let names: Vec<&str> = known.iter().map(Key::name).collect();
        for key in table.keys().filter(|key| !names.contains(&key.get_ref().as_ref())) {
            let place = if path.is_empty() { "at the top".to_owned() } else { format!("in [{path}]") };
            let help = match nearest(key.get_ref(), &names) {
                Some(name) => format!("write {name:?}"),
                None => format!("write one of {}", names.join(", ")),
            };
            document.fault(key.span(), format!("unknown key {:?} {place}", key.get_ref()), help);
        }
        Self { document, path, table, span }
    }

    fn get(&self, name: &str) -> Option<&'d Spanned<DeValue<'i>>> {
        self.table.get(name)
    }

    /// Where a key's value stands, else where the table begins.
    pub(super) fn span_of(&self, name: &str) -> Range<usize> {
        self.get(name).map_or_else(|| self.span.clone(), Spanned::span)
    }

    fn wrong_type(&self, name: &str, value: &Spanned<DeValue<'i>>, wanted: &str, help: String) -> Faulty {
        let found = value.get_ref().type_str();
        self.document.fault(value.span(), format!("{name} in [{}] is of type {found}, not {wanted}", self.path), help)
    }

    /// A key that has to be there.
    pub(super) fn required<T>(&self, key: &Plain, found: Found<T>) -> Result<T, Faulty> {
        match found? {
            Some(value) => Ok(value),
            None => {
                let message = format!("{} is missing in [{}]", key.name, self.path);
                Err(self.document.fault(self.span.clone(), message, format!("write {}", assignment(key))))
            }
        }
    }

    pub(super) fn text(&self, key: &Plain) -> Found<String> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let help = || format!("write {} = {:?}", key.name, key.example);
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong_type(key.name, value, "string", help()))?;
        self.plain_text(key, text, value.span(), &help).map(Some)
    }

    /// One of some words.
    pub(super) fn word(&self, key: &Plain, words: &[&'static str]) -> Found<&'static str> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Ok(Some(word));
        }
        let message = format!("{} in [{}] is {text:?}", key.name, self.path);
        let help = match nearest(&text, words) {
            Some(word) => format!("write {word:?}"),
            None => format!("write one of {}", words.join(", ")),
        };
        Err(self.document.fault(self.span_of(key.name), message, help))
    }

    fn plain_text(
        &self,
        key: &Plain,
        text: &str,
        span: Range<usize>,
        help: &dyn Fn() -> String,
    ) -> Result<String, Faulty> {
        let problem = if text.is_empty() {
            "is empty"
        } else if text.contains('\0') {
            "holds a NUL character"
        } else {
            return Ok(text.to_owned());
        };
        Err(self.document.fault(span, format!("{} in [{}] {problem}", key.name, self.path), help()))
    }

    /// A list of at least one text, each with where it stands.
    pub(super) fn texts(&self, key: &Plain) -> Found<Vec<(String, Range<usize>)>> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let help = || format!("write {}", assignment(key));
        let Some(items) = value.get_ref().as_array() else {
            let help = value.get_ref().as_str().map_or_else(help, |text| format!("write {} = [{text:?}]", key.name));
            return Err(self.wrong_type(key.name, value, "array of strings", help));
        };
        if items.is_empty() {
            let message = format!("{} in [{}] is empty", key.name, self.path);
            return Err(self.document.fault(value.span(), message, help()));
        }
        let mut texts = Vec::with_capacity(items.len());
        let mut faulty = false;
        for item in items.iter() {
            let text = match item.get_ref().as_str() {
                Some(text) => self.plain_text(key, text, item.span(), &help),
                None => Err(self.wrong_type(key.name, item, "string", help())),
            };
            match text {
                Ok(text) => texts.push((text, item.span())),
                Err(Faulty) => faulty = true,
            }
        }
        if faulty { Err(Faulty) } else { Ok(Some(texts)) }
    }

    pub(super) fn duration(&self, key: &Ranged<Duration>) -> Found<Duration> {
        self.unit(key, duration::parse, duration::format, duration::EXAMPLE, "duration")
    }

    /// A duration, or the word: `Some(None)`.
    pub(super) fn duration_or(&self, key: &Ranged<Duration>, word: &str) -> Found<Option<Duration>> {
        let text = self.get(key.name).and_then(|value| value.get_ref().as_str());
        if text == Some(word) {
            return Ok(Some(None));
        }
        let example = format!("{}, or {word:?}", duration::EXAMPLE);
        Ok(self.unit(key, duration::parse, duration::format, &example, "duration")?.map(Some))
    }

    pub(super) fn bytes(&self, key: &Ranged<u64>) -> Found<u64> {
        self.unit(key, bytes::parse, bytes::format, bytes::EXAMPLE, "size")
    }

    /// A value that is a text of a number and a unit.
    fn unit<T: Copy + PartialOrd>(
        &self,
        key: &Ranged<T>,
        parse: fn(&str) -> Option<T>,
        format: fn(T) -> String,
        example: &str,
        wanted: &str,
    ) -> Found<T> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let help = || format!("write {example}");
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong_type(key.name, value, wanted, help()))?;
        let Some(parsed) = parse(text) else {
            let message = format!("{} in [{}] is no {wanted}: {text:?}", key.name, self.path);
            return Err(self.document.fault(value.span(), message, help()));
        };
        self.in_range(key, parsed, value.span(), |bound| format!("\"{}\"", format(bound))).map(Some)
    }

    pub(super) fn count(&self, key: &Ranged<u32>) -> Found<u32> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let help = || format!("write a whole number from {} to {}", key.min, key.max);
        let number = value
            .get_ref()
            .as_integer()
            .ok_or_else(|| self.wrong_type(key.name, value, "integer", help()))
            .map(|number| i64::from_str_radix(number.as_str(), number.radix()))?;
        // What does not fit is as far out of range as the nearest end of the type is.
        let wide = number.unwrap_or(i64::MAX);
        let number = u32::try_from(wide.max(0)).unwrap_or(u32::MAX);
        if wide < i64::from(key.min) {
            let message = format!("{} in [{}] is {wide}, less than {}", key.name, self.path, key.min);
            return Err(self.document.fault(value.span(), message, help()));
        }
        self.in_range(key, number, value.span(), |bound| bound.to_string()).map(Some)
    }

    pub(super) fn number(&self, key: &Ranged<f64>) -> Found<f64> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let parsed = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let help = || format!("write a number from {:?} to {:?}", key.min, key.max);
        let number = parsed.ok_or_else(|| self.wrong_type(key.name, value, "number", help()))?;
        self.in_range(key, number, value.span(), |bound| format!("{bound:?}")).map(Some)
    }

    /// The key's default when it is absent.
    pub(super) fn flag(&self, key: &Flag) -> Result<bool, Faulty> {
        let Some(value) = self.get(key.name) else { return Ok(key.default) };
        let wrong = || self.wrong_type(key.name, value, "boolean", format!("write {} = true or false", key.name));
        value.get_ref().as_bool().ok_or_else(wrong)
    }

    fn in_range<T: Copy + PartialOrd, S: Display>(
        &self,
        key: &Ranged<T>,
        value: T,
        span: Range<usize>,
        show: impl Fn(T) -> S,
    ) -> Result<T, Faulty> {
        // Said this way round, what compares to nothing (not a number) is out of range.
        if value >= key.min && value <= key.max {
            return Ok(value);
        }
        let message = format!("{} in [{}] is out of range", key.name, self.path);
        Err(self.document.fault(span, message, format!("write {} to {}", show(key.min), show(key.max))))
    }

    /// A table in this one; an absent one is empty, for its keys have defaults.
    pub(super) fn table(&self, spec: &Table) -> Result<Option<View<'d, 'i>>, Faulty> {
        let Some(value) = self.get(spec.name) else { return Ok(None) };
        let path = format!("{}.{}", self.path, spec.name);
        match value.get_ref().as_table() {
            Some(table) => Ok(Some(View::open(self.document, path, table, value.span(), spec.keys))),
            None => {
                let names: Vec<_> = spec.keys.iter().map(Key::name).collect();
                let help = format!("write a table with any of {}", names.join(", "));
                Err(self.wrong_type(spec.name, value, "table", help))
            }
        }
    }

    /// Tables in a list, in their order.
    pub(super) fn tables(&self, spec: &Table) -> Result<Vec<View<'d, 'i>>, Faulty> {
        let Some(value) = self.get(spec.name) else { return Ok(Vec::new()) };
        let names: Vec<_> = spec.keys.iter().map(Key::name).collect();
        let help = || format!("write a list of tables with {}", names.join(", "));
        let Some(items) = value.get_ref().as_array() else {
            return Err(self.wrong_type(spec.name, value, "array of tables", help()));
        };
        let mut views = Vec::with_capacity(items.len());
        let mut faulty = false;
        for (number, item) in items.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}.{}.{number}", self.path, spec.name);
                    views.push(View::open(self.document, path, table, item.span(), spec.keys));
                }
                None => {
                    self.wrong_type(spec.name, item, "table", help());
                    faulty = true;
                }
            }
        }
        if faulty { Err(Faulty) } else { Ok(views) }
    }

    /// A key of a table in a list that has to be there.
    pub(super) fn needed<T>(&self, name: &str, example: &str, found: Found<T>) -> Result<T, Faulty> {
        found?.ok_or_else(|| {
            let message = format!("{name} is missing in [{}]", self.path);
            self.document.fault(self.span.clone(), message, format!("write {name} = {example}"))
        })
    }

    /// A table with free names and texts, each with where name and text stand.
    pub(super) fn text_map(&self, key: &Plain) -> Found<Vec<MapEntry>> {
        let Some(value) = self.get(key.name) else { return Ok(None) };
        let help = || format!("write {} = {{ NAME = {:?} }}", key.name, key.example);
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong_type(key.name, value, "table", help()));
        };
        let mut entries = Vec::with_capacity(table.len());
        let mut faulty = false;
        for (name, value) in table.iter() {
            match value.get_ref().as_str() {
                Some(text) if !text.contains('\0') => entries.push(MapEntry {
                    name: name.get_ref().to_string(),
                    name_span: name.span(),
                    text: text.to_owned(),
                    text_span: value.span(),
                }),
                Some(_) => {
                    let message = format!("{} in [{}.{}] holds a NUL character", name.get_ref(), self.path, key.name);
                    self.document.fault(value.span(), message, "take it out");
                    faulty = true;
                }
                None => {
                    self.wrong_type(name.get_ref(), value, "string", "put the value in quotes".to_owned());
                    faulty = true;
                }
            }
        }
        if faulty { Err(Faulty) } else { Ok(Some(entries)) }
    }
}

/// One entry of a table of texts.
pub(super) struct MapEntry {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    pub(super) text: String,
    pub(super) text_span: Range<usize>,
}

fn assignment(key: &Plain) -> String {
    format!("{} = [{:?}]", key.name, key.example)
}
