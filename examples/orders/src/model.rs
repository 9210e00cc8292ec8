//! What the end must be, worked out from the lines alone.
//!
//! This is the oracle's own view: it reads the data as plain JSON and shares no code with the handlers, the typed events,
//! the JSON Schema or the generator, so that a fault in one of those shows as a difference.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::{Account, Entry, Mode};

/// The committed end state, `data/expected.json`, of the committed orders.
pub const FILE: &str = include_str!("../data/expected.json");

/// The end state that a list of lines must lead to, in whatever order they are processed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Messages published.
    pub published: u64,
    /// Messages that are no repeat: `published - duplicates`.
    pub unique: u64,
    /// Messages that repeat an order with the same payload.
    pub duplicates: u64,
    /// By function.
    pub functions: BTreeMap<String, FunctionEnd>,
    /// Number of rows by table.
    pub rows: BTreeMap<String, u64>,
    /// What each customer's account holds, in minor units.
    pub balances: BTreeMap<String, i64>,
    /// `update-analytics`'s counters by name.
    pub counters: BTreeMap<String, i64>,
    /// Every order that has a key and keeps the schema, by its id.
    pub orders: BTreeMap<String, OrderEnd>,
}

/// How a function's events end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionEnd {
    pub succeeded: u64,
    /// Dead letters by reason.
    pub dead: BTreeMap<String, u64>,
}

/// How an order ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderEnd {
    pub customer: String,
    pub lines: u64,
    pub total_minor: i64,
    pub end: End,
}

/// Where an order's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Taken, paid, and the customer knows.
    Paid,
    /// Taken; its customer cannot pay.
    Unpaid,
    /// Never taken: it kills the worker each time.
    Crashed,
}

/// Why no end state follows from the lines.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// An order names a customer who has no account.
    #[error("work out the end: order {order} is of customer {customer}, who has no account")]
    NoAccount { order: String, customer: String },
    /// Which orders can be paid depends on the order of processing.
    #[error("work out the end: customer {customer} can pay some orders only, so the end depends on their order")]
    Ambiguous { customer: String },
    /// Two payloads of an order differ in something that has an effect.
    #[error(
        "work out the end: the payloads of order {order} have different effects, so the end depends on their order"
    )]
    Different { order: String },
}

const POISON: &str = "poison-pill";
const ROOTS: [&str; 2] = ["create-order", "update-analytics"];

/// Works the end state out.
///
/// # Errors
/// The end depends on the order of processing, or a customer is unknown.
pub fn expect(entries: &[Entry], accounts: &[Account]) -> Result<Expected, ModelError> {
    let mut end = Expected { published: entries.len() as u64, ..Expected::default() };
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    // The payloads seen of each order.
    let mut payloads: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in entries {
        match judge(entry) {
            Judged::Refused(reason) => *refused.entry(reason).or_default() += 1,
            Judged::Order(id, payload) => {
                let seen = payloads.entry(id.clone()).or_default();
                if seen.contains(&payload) {
                    end.duplicates += 1;
                } else {
                    if seen.first().is_some_and(|first| without_note(first) != without_note(&payload)) {
                        return Err(ModelError::Different { order: id });
                    }
                    seen.push(payload);
                }
            }
        }
    }
    end.unique = end.published - end.duplicates;
    let mismatches: u64 = payloads.values().map(|seen| seen.len() as u64 - 1).sum();
    if mismatches > 0 {
        refused.insert("mismatch", mismatches);
    }
    let orders = payloads.into_iter().filter_map(|(id, seen)| Some((id, seen.into_iter().next()?)));
    settle(&mut end, orders.collect(), accounts)?;
    count(&mut end, &refused);
    Ok(end)
}

/// What admission must say of one message.
enum Judged {
    Refused(&'static str),
    Order(String, Value),
}

fn judge(entry: &Entry) -> Judged {
    let Some(data) = entry.data().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Judged::Refused("undecodable");
    };
    if entry.mode() == Mode::Plain && entry.id().is_none() {
        return Judged::Refused("no_key");
    }
    if !keeps_the_schema(&data) {
        return Judged::Refused("schema");
    }
    match text(&data, "order_id") {
        Some(id) => Judged::Order(id.to_owned(), data),
        None => Judged::Refused("no_key"),
    }
}

fn without_note(payload: &Value) -> Value {
    let mut payload = payload.clone();
    if let Some(fields) = payload.as_object_mut() {
        fields.remove("note");
    }
    payload
}

/// Pays, counts and adds up, order by order.
fn settle(end: &mut Expected, orders: BTreeMap<String, Value>, accounts: &[Account]) -> Result<(), ModelError> {
    let opening: BTreeMap<&str, i64> = accounts.iter().map(|a| (a.customer_id, a.opening_minor)).collect();
    // Only orders that are taken ask for money.
    let mut wanted: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (id, order) in &orders {
        let customer = customer(order);
        if !opening.contains_key(customer) {
            return Err(ModelError::NoAccount { order: id.clone(), customer: customer.to_owned() });
        }
        if !is_poison(order) {
            wanted.entry(customer).or_default().push(number(order, "total_minor"));
        }
    }
    let mut pays: BTreeSet<&str> = BTreeSet::new();
    for (&customer, &holds) in &opening {
        let amounts = wanted.get(customer).map_or(&[][..], Vec::as_slice);
        let sum: i64 = amounts.iter().sum();
        if sum <= holds {
            pays.insert(customer);
            end.balances.insert(customer.to_owned(), holds - sum);
        } else if amounts.iter().all(|&amount| amount > holds) {
            end.balances.insert(customer.to_owned(), holds);
        } else {
            return Err(ModelError::Ambiguous { customer: customer.to_owned() });
        }
    }
    for (id, order) in &orders {
        let way = match (is_poison(order), pays.contains(customer(order))) {
            (true, _) => End::Crashed,
            (false, true) => End::Paid,
            (false, false) => End::Unpaid,
        };
        let lines = lines(order);
        for line in lines {
            let sku = text(line, "sku").unwrap_or_default();
            *end.counters.entry(format!("orders:{sku}")).or_default() += 1;
            *end.counters.entry(format!("units:{sku}")).or_default() += number(line, "quantity");
        }
        let currency = text(order, "currency").unwrap_or_default();
        *end.counters.entry(format!("turnover:{currency}")).or_default() += number(order, "total_minor");
        let total_minor = number(order, "total_minor");
        let order = OrderEnd { customer: customer(order).to_owned(), lines: lines.len() as u64, total_minor, end: way };
        end.orders.insert(id.clone(), order);
    }
    Ok(())
}

/// Counts by function and by table.
fn count(end: &mut Expected, refused: &BTreeMap<&str, u64>) {
    let ways = |way: End| end.orders.values().filter(|order| order.end == way).count() as u64;
    let (paid, unpaid, crashed) = (ways(End::Paid), ways(End::Unpaid), ways(End::Crashed));
    let taken = paid + unpaid;
    let lines = end.orders.values().filter(|order| order.end != End::Crashed).map(|order| order.lines).sum();
    let dead = |more: &[(&str, u64)], refused: &BTreeMap<&str, u64>| -> BTreeMap<String, u64> {
        let all = refused.iter().map(|(&reason, &n)| (reason, n)).chain(more.iter().copied());
        all.filter(|&(_, n)| n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect()
    };
    let [create, analytics] = ROOTS;
    let none = BTreeMap::new();
    let functions = [
        (create, taken, dead(&[("crashed", crashed)], refused)),
        (analytics, taken + crashed, dead(&[], refused)),
        ("charge-payment", paid, dead(&[("terminal", unpaid)], &none)),
        ("notify-customer", paid, dead(&[], &none)),
    ];
    for (name, succeeded, dead) in functions {
        end.functions.insert(name.to_owned(), FunctionEnd { succeeded, dead });
    }
    let rows =
        [("orders", taken), ("order_lines", lines), ("audit", taken), ("payments", paid), ("notifications", paid)];
    end.rows = rows.into_iter().map(|(table, n)| (table.to_owned(), n)).collect();
}

/// The rules of `schemas/order-placed.json`, said again by hand.
fn keeps_the_schema(data: &Value) -> bool {
    let fields_of = |value: &Value, known: &[&str]| {
        value.as_object().is_some_and(|fields| fields.keys().all(|name| known.contains(&name.as_str())))
    };
    let top = ["order_id", "placed_at", "customer", "currency", "lines", "total_minor", "provider", "note"];
    let id = match data.get("order_id") {
        None => true,
        Some(id) => id.as_str().is_some_and(|id| numbered(id, 4..=12)),
    };
    let customer = data.get("customer").is_some_and(|customer| {
        fields_of(customer, &["id", "name"])
            && text(customer, "id").is_some_and(|id| id.starts_with('C') && numbered(id, 3..=9))
            && text(customer, "name").is_some_and(|name| !name.is_empty())
    });
    let currency = text(data, "currency").is_some_and(|c| c.len() == 3 && c.bytes().all(|b| b.is_ascii_uppercase()));
    let line_is_good = |line: &Value| {
        fields_of(line, &["sku", "name", "quantity", "unit_price_minor"])
            && text(line, "sku").is_some_and(|sku| !sku.is_empty())
            && text(line, "name").is_some_and(|name| !name.is_empty())
            && line.get("quantity").and_then(Value::as_i64).is_some_and(|n| (1..=10_000).contains(&n))
            && line.get("unit_price_minor").and_then(Value::as_i64).is_some_and(|n| n >= 0)
    };
    let lines = lines(data);
    fields_of(data, &top)
        && id
        && customer
        && currency
        && !lines.is_empty()
        && lines.iter().all(line_is_good)
        && text(data, "placed_at").is_some_and(|at| at.len() >= 20)
        && text(data, "provider").is_some_and(|provider| !provider.is_empty())
        && data.get("total_minor").and_then(Value::as_i64).is_some_and(|n| n >= 0)
        && data.get("note").is_none_or(Value::is_string)
}

/// One capital letter, a dash, and that many digits.
fn numbered(id: &str, digits: std::ops::RangeInclusive<usize>) -> bool {
    id.split_once('-').is_some_and(|(letter, number)| {
        letter.len() == 1
            && letter.bytes().all(|b| b.is_ascii_uppercase())
            && digits.contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

fn number(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or_default()
}

fn customer(order: &Value) -> &str {
    order.get("customer").and_then(|customer| text(customer, "id")).unwrap_or_default()
}

fn lines(order: &Value) -> &[Value] {
    order.get("lines").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_poison(order: &Value) -> bool {
    lines(order).iter().any(|line| text(line, "sku") == Some(POISON))
}

impl Expected {
    /// The committed end state.
    ///
    /// # Errors
    /// Never, as a test holds.
    pub fn committed() -> Result<Self, serde_json::Error> {
        serde_json::from_str(FILE)
    }

    /// The file's text: readable, one order to a line.
    ///
    /// # Errors
    /// Never: everything in it serialises.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let head = serde_json::to_string_pretty(&Self { orders: BTreeMap::new(), ..self.clone() })?;
        let mut orders = Vec::with_capacity(self.orders.len());
        for (id, order) in &self.orders {
            orders.push(format!("    {}: {}", serde_json::to_string(id)?, serde_json::to_string(order)?));
        }
        Ok(head.replace("\"orders\": {}", &format!("\"orders\": {{\n{}\n  }}", orders.join(",\n"))) + "\n")
    }
}
