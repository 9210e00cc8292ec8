//! Makes a file of orders: mostly good ones, and a known number of each kind of trouble. The same seed and count give
//! the same bytes, always: it draws from a generator of its own.

use serde::Serialize;
use serde_json::value::RawValue;

use super::catalogue::{Account, PRODUCTS, accounts_that, per_thousand_cents};
use super::{Entry, EntryError, MessageLine, Mode};
use crate::events::{Customer, FLAKY_PROVIDER, ORDERS_PLACED, OrderLine, OrderPlaced, POISON_SKU};

/// Repeats of an order with the same payload.
const DUPLICATES: usize = 20;
/// Repeats that are of an order whose payment is flaky, and of one that cannot be paid.
const DUPLICATES_OF_TROUBLE: [usize; 2] = [2, 1];
/// Repeats of an order id with another payload.
const REUSED: usize = 5;
/// Orders whose payment fails until its third attempt.
const FLAKY: usize = 12;
/// Orders of customers who cannot pay anything.
const UNPAYABLE: usize = 6;
const POISON: usize = 1;
const CUT_OFF: &str =
    r#"{"specversion":"1.0","id":"cut-off","source":"/shop/web","type":"orders.placed","data":{"order_id":"A-"#;
const MALFORMED: usize = 6;
const SCHEMA_BREAKERS: usize = 8;
const NO_KEY: usize = 4;
const NOT_ORDERS: usize = DUPLICATES + REUSED + MALFORMED + SCHEMA_BREAKERS + NO_KEY;

/// The smallest count: every kind of trouble is there, and the orders to repeat are there too.
pub const MIN_COUNT: usize = 100;

/// Why no file could be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Fewer lines than [`MIN_COUNT`].
    #[error("generate {count} lines: the least is {MIN_COUNT}")]
    TooFew { count: usize },
    /// A defect of the generator.
    #[error("write an event")]
    Json(#[from] serde_json::Error),
    /// A defect of the generator.
    #[error("read an event back")]
    Entry(#[from] EntryError),
}

/// SplitMix64: small, and the same on every machine and in every version.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// Sixteen hexadecimal digits.
    fn id(&mut self) -> String {
        format!("{:016x}", self.next())
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// What is special about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    Flaky,
    Unpayable,
    Poison,
    /// Comes a second time with another note.
    Reused,
}

/// One good order with how it is sent.
struct Order {
    data: OrderPlaced,
    mode: Mode,
    id: String,
    source: &'static str,
    role: Role,
}

/// Makes `count` lines.
///
/// # Errors
/// `count` is below [`MIN_COUNT`].
pub fn generate(seed: u64, count: usize) -> Result<Vec<Entry>, GenerateError> {
    if count < MIN_COUNT {
        return Err(GenerateError::TooFew { count });
    }
    let mut rng = Rng(seed);
    let orders = orders(&mut rng, count - NOT_ORDERS);
    // Each line's place: the order that it stands at or behind, then a number that only breaks ties.
    let mut lines: Vec<(usize, Entry)> = Vec::with_capacity(count);
    for (place, order) in orders.iter().enumerate() {
        lines.push((place, order.entry()?));
    }
    duplicates(&mut rng, &orders, &mut lines)?;
    reused(&mut rng, &orders, &mut lines)?;
    broken(&mut rng, &orders, &mut lines)?;
    // Stable: what was pushed later stands behind the order of its place.
    lines.sort_by_key(|(place, _)| *place);
    Ok(lines.into_iter().map(|(_, entry)| entry).collect())
}

fn orders(rng: &mut Rng, count: usize) -> Vec<Order> {
    let mut roles = vec![Role::Plain; count];
    let special = [(Role::Flaky, FLAKY), (Role::Unpayable, UNPAYABLE), (Role::Poison, POISON), (Role::Reused, REUSED)];
    for (slot, role) in roles.iter_mut().zip(special.iter().flat_map(|&(role, n)| std::iter::repeat_n(role, n))) {
        *slot = role;
    }
    rng.shuffle(&mut roles);
    let (funded, broke) = (accounts_that(true), accounts_that(false));
    roles
        .into_iter()
        .enumerate()
        .filter_map(|(number, role)| {
            let account = *rng.pick(if role == Role::Unpayable { &broke } else { &funded })?;
            let data = order(rng, number, account, role);
            // Structured events are the usual case.
            let mode = match rng.below(20) {
                0..12 => Mode::Structured,
                12..17 => Mode::Binary,
                _ => Mode::Plain,
            };
            let id = rng.id();
            let source = rng.pick(&["/shop/web", "/shop/app", "/shop/till"])?;
            Some(Order { data, mode, id, source, role })
        })
        .collect()
}

fn order(rng: &mut Rng, number: usize, account: &Account, role: Role) -> OrderPlaced {
    let mut shelf: Vec<usize> = (0..PRODUCTS.len()).collect();
    rng.shuffle(&mut shelf);
    shelf.truncate(1 + rng.below(4));
    let mut lines: Vec<OrderLine> = shelf
        .into_iter()
        .filter_map(|place| PRODUCTS.get(place))
        .map(|product| OrderLine {
            sku: product.sku.to_owned(),
            name: product.name.to_owned(),
            quantity: i64::try_from(1 + rng.below(3)).unwrap_or(1),
            unit_price_minor: product.price_cents * per_thousand_cents(account.currency) / 1_000,
        })
        .collect();
    if role == Role::Poison {
        lines.push(OrderLine {
            sku: POISON_SKU.to_owned(),
            name: "Poison pill ☠".to_owned(),
            quantity: 1,
            unit_price_minor: 1,
        });
    }
    let provider =
        if role == Role::Flaky { FLAKY_PROVIDER } else { rng.pick(&["northpay", "cardinal"]).unwrap_or(&"northpay") };
    let note = match (role, rng.below(6)) {
        (Role::Reused, _) => Some("please ring twice"),
        (_, 0) => Some("leave it at the door, thanks 🙏"),
        (_, 1) => Some("Klingel defekt – bitte anrufen"),
        (_, 2) => Some("置き配でお願いします"),
        _ => None,
    };
    let seconds = i64::try_from(number).unwrap_or(0).saturating_mul(37);
    let placed_at = jiff::Timestamp::from_second(1_788_249_600_i64.saturating_add(seconds)).unwrap_or_default();
    let total_minor = lines.iter().map(|line| line.quantity * line.unit_price_minor).sum();
    OrderPlaced {
        order_id: format!("A-{}", 10_001 + number),
        placed_at: placed_at.to_string(),
        customer: Customer { id: account.customer_id.to_owned(), name: account.name.to_owned() },
        currency: account.currency.to_owned(),
        lines,
        total_minor,
        provider: provider.to_owned(),
        note: note.map(str::to_owned),
    }
}

impl Order {
    /// The order's line. In structured mode without a note for people it is a bare CloudEvent.
    fn entry(&self) -> Result<Entry, GenerateError> {
        self.entry_with(None, self.mode, &self.id)
    }

    fn entry_with(&self, note: Option<String>, mode: Mode, id: &str) -> Result<Entry, GenerateError> {
        #[derive(Serialize)]
        struct CloudEvent<'a> {
            specversion: &'a str,
            id: &'a str,
            source: &'a str,
            r#type: &'a str,
            datacontenttype: &'a str,
            data: &'a RawValue,
        }
        let data = RawValue::from_string(serde_json::to_string(&self.data)?)?;
        if note.is_none() && mode == Mode::Structured {
            let event = CloudEvent {
                specversion: "1.0",
                id,
                source: self.source,
                r#type: ORDERS_PLACED,
                datacontenttype: "application/json",
                data: &data,
            };
            return Ok(Entry::parse(&serde_json::to_string(&event)?, 0)?);
        }
        let source = (mode != Mode::Plain).then(|| self.source.to_owned());
        Ok(message(note, mode, Some(id.to_owned()), source, Some(data), None))
    }
}

fn message(
    note: Option<String>,
    mode: Mode,
    id: Option<String>,
    source: Option<String>,
    data: Option<Box<RawValue>>,
    raw: Option<String>,
) -> Entry {
    let line = MessageLine {
        note,
        mode,
        exchange: None,
        kind: ORDERS_PLACED.to_owned(),
        id,
        source,
        time: None,
        reply_to: None,
        correlation_id: None,
        headers: std::collections::BTreeMap::new(),
        data,
        raw,
    };
    Entry::Message(Box::new(line))
}

/// A third right behind the original, the rest anywhere later; a third with an event id of their own.
fn duplicates(rng: &mut Rng, orders: &[Order], lines: &mut Vec<(usize, Entry)>) -> Result<(), GenerateError> {
    let [flaky, unpayable] = DUPLICATES_OF_TROUBLE;
    let shares = [(Role::Flaky, flaky), (Role::Unpayable, unpayable), (Role::Plain, DUPLICATES - flaky - unpayable)];
    let mut number = 0;
    for (role, share) in shares {
        let mut of_role: Vec<usize> =
            (0..orders.len()).filter(|&i| orders.get(i).is_some_and(|o| o.role == role)).collect();
        rng.shuffle(&mut of_role);
        for place in of_role.into_iter().take(share) {
            let Some(order) = orders.get(place) else { continue };
            let at = if number % 3 == 0 { place } else { place + 1 + rng.below(orders.len() - place) };
            let (words, id, mode) = match (number % 3, order.mode) {
                (2, Mode::Structured) => (", with another event id, written otherwise", rng.id(), Mode::Binary),
                (2, _) => (", with another event id, written otherwise", rng.id(), Mode::Structured),
                (_, mode) => ("", order.id.clone(), mode),
            };
            let note = format!("duplicate of {}{words}", order.data.order_id);
            lines.push((at, order.entry_with(Some(note), mode, &id)?));
            number += 1;
        }
    }
    Ok(())
}

/// The same order id with another note: whichever comes first wins, and the effects are the same.
fn reused(rng: &mut Rng, orders: &[Order], lines: &mut Vec<(usize, Entry)>) -> Result<(), GenerateError> {
    for (place, order) in orders.iter().enumerate().filter(|(_, order)| order.role == Role::Reused) {
        let data = OrderPlaced { note: Some("leave it with the neighbour".to_owned()), ..order.data.clone() };
        let note = format!("{} again with another payload", order.data.order_id);
        let at = place + 1 + rng.below(orders.len() - place);
        let again = Order { data, id: rng.id(), ..*order };
        lines.push((at, again.entry_with(Some(note), again.mode, &again.id)?));
    }
    Ok(())
}

/// Lines that no function takes: no event at all, an event against the schema, an event without a key.
fn broken(rng: &mut Rng, orders: &[Order], lines: &mut Vec<(usize, Entry)>) -> Result<(), GenerateError> {
    let raws: [(Mode, &str, &str); MALFORMED] = [
        (Mode::Structured, CUT_OFF, "cut off"),
        (Mode::Plain, "order A-99999: 3 × coffee", "no JSON"),
        (Mode::Structured, "", "nothing at all"),
        (Mode::Structured, r#"{'specversion':'1.0','id':'single-quotes'}"#, "single quotes"),
        (Mode::Binary, r#"<order id="A-99998"><sku>chair</sku></order>"#, "XML"),
        (Mode::Structured, "\u{feff}{]", "a byte order mark and a wrong bracket"),
    ];
    for (number, (mode, raw, what)) in raws.into_iter().enumerate() {
        let note = Some(format!("malformed: {what}"));
        let id = Some(format!("malformed-{}", number + 1));
        let source = (mode == Mode::Binary).then(|| "/shop/web".to_owned());
        lines.push((rng.below(orders.len()), message(note, mode, id, source, None, Some(raw.to_owned()))));
    }
    let edits: [(&str, &str, &str); SCHEMA_BREAKERS] = [
        (r#""quantity":"#, r#""quantity":-"#, "a negative quantity"),
        (r#""quantity":"#, r#""quantity":0.5,"quantity_was":"#, "half an article"),
        (r#""currency":""#, r#""currency":"US-"#, "no currency"),
        (r#""total_minor":"#, r#""total_minor":"12","total_was":"#, "a total in quotes"),
        (r#""lines":"#, r#""lines":[],"lines_were":"#, "no lines"),
        (r#""customer":"#, r#""client":"#, "no customer"),
        (r#""order_id":"A-"#, r#""order_id":"order "#, "an order id of another form"),
        (r#""provider":"#, r#""coupon":"FREE","provider":"#, "an unknown field"),
    ];
    for (number, (from, to, what)) in edits.into_iter().enumerate() {
        let broken = |data: String| data.replacen(from, to, 1);
        broken_order(
            rng,
            orders,
            lines,
            &format!("against the schema: {what}"),
            80_001 + number,
            Some(Mode::Structured),
            broken,
        )?;
    }
    for number in 0..NO_KEY {
        // Half lack the order id in the data; half are plain messages without a message id, which name no event.
        if number % 2 == 0 {
            let id = format!("A-{}", 90_001 + number);
            let without = |data: String| data.replacen(&format!(r#""order_id":"{id}","#), "", 1);
            broken_order(rng, orders, lines, "no order id", 90_001 + number, Some(Mode::Structured), without)?;
        } else {
            broken_order(rng, orders, lines, "a plain message without a message id", 90_001 + number, None, |data| {
                data
            })?;
        }
    }
    Ok(())
}

/// A good order under a number of its own, its text changed. Without a mode: a plain message with no id.
fn broken_order(
    rng: &mut Rng,
    orders: &[Order],
    lines: &mut Vec<(usize, Entry)>,
    note: &str,
    number: usize,
    mode: Option<Mode>,
    change: impl FnOnce(String) -> String,
) -> Result<(), GenerateError> {
    let Some(&account) = rng.pick(&accounts_that(true)) else { return Ok(()) };
    let data = OrderPlaced { order_id: format!("A-{number}"), ..order(rng, 0, account, Role::Plain) };
    let data = RawValue::from_string(change(serde_json::to_string(&data)?))?;
    let id = mode.map(|_| rng.id());
    let source = mode.map(|_| "/shop/web".to_owned());
    let entry = message(Some(note.to_owned()), mode.unwrap_or(Mode::Plain), id, source, Some(data), None);
    lines.push((rng.below(orders.len()), entry));
    Ok(())
}
