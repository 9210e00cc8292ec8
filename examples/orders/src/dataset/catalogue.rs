//! What the shop sells, to whom, and what everybody has in their account.

/// A customer's account, which orders are paid from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub customer_id: &'static str,
    pub name: &'static str,
    /// ISO 4217; a customer orders in this currency only.
    pub currency: &'static str,
    /// What the account holds before the first order, in minor units.
    pub opening_minor: i64,
}

/// Enough for every order that the generator can make for one customer.
const FUNDED: i64 = 10_000_000_000;
/// Not enough for any order.
const BROKE: i64 = 1;

macro_rules! accounts {
    ($($id:literal $currency:ident $opening:ident $name:literal;)+) => {
        &[$(Account { customer_id: $id, name: $name, currency: stringify!($currency), opening_minor: $opening },)+]
    };
}

const ACCOUNTS: &[Account] = accounts! {
    "C-101" EUR FUNDED "Anna Schäfer";
    "C-102" EUR FUNDED "José Ñúñez García";
    "C-103" EUR FUNDED "Zoë Van den Broecke";
    "C-104" EUR FUNDED "Søren Kjærgaard";
    "C-105" EUR FUNDED "Σοφία Παπαδοπούλου";
    "C-106" EUR FUNDED "Līga Bērziņa";
    "C-107" EUR FUNDED "Ana-Marija Čović";
    "C-108" USD FUNDED "Grace O'Malley";
    "C-109" USD FUNDED "Xiomara \"Xio\" Peña";
    "C-110" USD FUNDED "Jordan Smith 🚀";
    "C-111" USD FUNDED "Nguyễn Thị Minh Khai";
    "C-112" GBP FUNDED "Siân Llewellyn-Jones";
    "C-113" GBP FUNDED "Aoife Ní Bhraonáin";
    "C-114" GBP FUNDED "Oluwaseun Adébáyò";
    "C-115" JPY FUNDED "山田 太郎";
    "C-116" JPY FUNDED "さくら 🌸";
    "C-117" JPY FUNDED "髙橋 健一";
    "C-118" CNY FUNDED "王小明";
    "C-119" CNY FUNDED "歐陽娜娜";
    "C-120" KRW FUNDED "김민준";
    "C-121" PLN FUNDED "Łukasz Żółkiewski";
    "C-122" CHF FUNDED "Jürg Müller";
    "C-123" SEK FUNDED "Åsa Öberg";
    "C-124" KWD FUNDED "فاطمة الزهراء";
    "C-125" ILS FUNDED "נועה לוי";
    "C-126" INR FUNDED "प्रिया शर्मा";
    "C-127" THB FUNDED "สมชาย ใจดี";
    "C-128" UAH FUNDED "Олена Ковальчук";
    "C-129" BRL FUNDED "João da Conceição";
    "C-130" TRY FUNDED "İlker Yıldız";
    "C-901" EUR BROKE "Benedikt Leer";
    "C-902" JPY BROKE "空 財布";
    "C-903" USD BROKE "Penny Less 💸";
};

/// Every customer's account. Each can either pay for everything that it orders or for nothing, so that the end does
/// not depend on the order in which payments are taken.
pub fn accounts() -> &'static [Account] {
    ACCOUNTS
}

/// The accounts that can pay, or those that cannot.
pub(super) fn accounts_that(pay: bool) -> Vec<&'static Account> {
    ACCOUNTS.iter().filter(|account| (account.opening_minor == FUNDED) == pay).collect()
}

/// An article, with its price in euro cents.
pub(super) struct Product {
    pub sku: &'static str,
    pub name: &'static str,
    pub price_cents: i64,
}

macro_rules! products {
    ($($sku:literal $price:literal $name:literal;)+) => {
        &[$(Product { sku: $sku, name: $name, price_cents: $price },)+]
    };
}

pub(super) const PRODUCTS: &[Product] = products! {
    "book-rust"      3990 "The Rust Programming Language";
    "book-tale"      1250 "源氏物語 (文庫)";
    "coffee-250"      890 "Café de Colombia, 250 g";
    "coffee-1000"    2990 "Café de Colombia, 1 kg";
    "tea-sencha"     1490 "煎茶 Sencha";
    "cup-blue"        990 "Tasse «Azulejo» – blau";
    "kettle"         4500 "Bouilloire à sifflet";
    "headphones"    12900 "Headphones, noise-cancelling";
    "keyboard-de"    8900 "Tastatur, ÄÖÜß";
    "cable-usb-c"     699 "USB-C cable, 2 m";
    "lamp-desk"      5490 "Lámpara de escritorio";
    "chair"         24900 "Stuhl «Ergo» Größe L";
    "socks-wool"     1190 "Wool socks 🧦";
    "scarf"          2590 "Halstørklæde";
    "rain-jacket"   11900 "Regnjacka";
    "bike-bell"       790 "Fahrradklingel 🔔";
    "bike-light"     2490 "Feu arrière";
    "puzzle-1000"    1790 "Puzzle, 1000 pièces";
    "plush-octopus"  1990 "Plüsch-Oktopus 🐙";
    "gift-card"      1000 "Gift card";
    "sticker-set"     350 "Sticker set “crab”";
    "notebook-a5"     650 "ノート A5";
    "pen-ink"        3490 "Füllfederhalter";
    "chocolate"       420 "Csokoládé, 100 g";
};

/// Minor units of a currency for a thousand euro cents. A rough rate: prices only have to look right.
pub(super) fn per_thousand_cents(currency: &str) -> i64 {
    match currency {
        "USD" => 1_100,
        "GBP" => 860,
        "JPY" => 1_650,
        "CNY" => 7_900,
        "KRW" => 15_800,
        "PLN" => 4_300,
        "CHF" => 950,
        "SEK" => 11_300,
        "KWD" => 3_350,
        "ILS" => 4_050,
        "INR" => 97_000,
        "THB" => 38_500,
        "UAH" => 45_000,
        "BRL" => 6_100,
        "TRY" => 45_500,
        _ => 1_000,
    }
}

/// Every counter that an order of this catalogue can move, sorted.
pub fn counter_names() -> Vec<String> {
    let articles = PRODUCTS.iter().map(|product| product.sku).chain([crate::events::POISON_SKU]);
    let mut names: Vec<String> = articles.flat_map(|sku| [format!("orders:{sku}"), format!("units:{sku}")]).collect();
    names.extend(ACCOUNTS.iter().map(|account| format!("turnover:{}", account.currency)));
    names.sort();
    names.dedup();
    names
}
