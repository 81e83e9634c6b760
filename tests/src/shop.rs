//! The traffic of a small shop, reproducible by seed: customers, orders and payments, in transactions of one and of many rows,
//! with a record of what was committed.

use anyhow::Context;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, TxOpts};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::mysql::MySql;

/// Each row has a version, which each change increments.
const SCHEMA: &str = "\
CREATE DATABASE shop;
CREATE TABLE shop.customers (id INT PRIMARY KEY, version INT NOT NULL, name VARCHAR(80) NOT NULL, email VARCHAR(120) NOT NULL);
CREATE TABLE shop.orders (id INT PRIMARY KEY, version INT NOT NULL, customer_id INT NOT NULL, \
 status ENUM('placed', 'paid', 'shipped', 'cancelled') NOT NULL, total DECIMAL(10,2) NOT NULL, email VARCHAR(120) NOT NULL, \
 updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3));
CREATE TABLE shop.payments (id INT PRIMARY KEY, version INT NOT NULL, order_id INT NOT NULL, amount DECIMAL(10,2) NOT NULL);
";

/// A committed row change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// The table, without the schema.
    pub table: &'static str,
    /// The row's key.
    pub id: i64,
    /// `c`, `u` or `d`, as in the envelope.
    pub operation: char,
    /// The row's version; for a delete the last one.
    pub version: i64,
}

/// The changes of one transaction.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The transaction in words.
    pub story: String,
}

/// A generator of the shop's transactions.
#[derive(Debug)]
pub struct Shop {
    conn: Conn,
    random: SmallRng,
    customers: i64,
    orders: i64,
    payments: i64,
    open: Vec<Order>,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    id: i64,
    version: i64,
    cents: i64,
    paid: bool,
}

impl Shop {
    /// Creates the tables.
    ///
    /// # Errors
    /// If the server rejects a statement.
    pub async fn create(mysql: &MySql) -> anyhow::Result<()> {
        mysql.run(SCHEMA).await
    }

    /// Opens an empty shop.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn open(mysql: &MySql, seed: u64) -> anyhow::Result<Self> {
        let conn = mysql.connect().await?;
        let random = SmallRng::seed_from_u64(seed);
        Ok(Self { conn, random, customers: 0, orders: 0, payments: 0, open: Vec::new() })
    }

    /// Commits the next transaction.
    ///
    /// # Errors
    /// If the server rejects a statement.
    pub async fn step(&mut self) -> anyhow::Result<Committed> {
        let dice = self.random.random_range(0..100);
        let (statements, committed) = match dice {
            _ if self.customers == 0 => self.sign_up(1),
            0..5 => self.sign_up(1),
            5..7 => {
                let many = self.random.random_range(50..600);
                self.sign_up(many)
            }
            7..12 => self.change_address(),
            12..50 => self.place(),
            _ => match self.open.is_empty() {
                true => self.place(),
                false => self.advance(),
            },
        };
        let mut transaction = self.conn.start_transaction(TxOpts::default()).await?;
        for statement in statements {
            transaction.query_drop(&statement).await.with_context(|| statement.clone())?;
        }
        transaction.commit().await?;
        Ok(committed)
    }

    fn sign_up(&mut self, many: i64) -> (Vec<String>, Committed) {
        let first = self.customers + 1;
        self.customers += many;
        let ids = first..=self.customers;
        let values: Vec<String> =
            ids.clone().map(|id| format!("({id}, 1, 'Customer {id} Ünïcode', 'customer{id}@example.com')")).collect();
        let changes = ids.map(|id| Change { table: "customers", id, operation: 'c', version: 1 }).collect();
        let story =
            if many == 1 { format!("customer {first} signs up") } else { format!("{many} customers are imported") };
        (vec![format!("INSERT INTO shop.customers VALUES {}", values.join(", "))], Committed { changes, story })
    }

    /// Makes two changes of one row in one transaction.
    fn change_address(&mut self) -> (Vec<String>, Committed) {
        self.customers += 1;
        let id = self.customers;
        let statements = vec![
            format!("INSERT INTO shop.customers VALUES ({id}, 1, 'Customer {id}', 'customer{id}@example.com')"),
            format!("UPDATE shop.customers SET version = 2, email = 'customer{id}@example.org' WHERE id = {id}"),
        ];
        let change = |operation, version| Change { table: "customers", id, operation, version };
        let story = format!("customer {id} signs up and corrects the address");
        (statements, Committed { changes: vec![change('c', 1), change('u', 2)], story })
    }

    fn place(&mut self) -> (Vec<String>, Committed) {
        self.orders += 1;
        let (id, customer) = (self.orders, self.random.random_range(1..=self.customers));
        let cents = self.random.random_range(100..100_000);
        self.open.push(Order { id, version: 1, cents, paid: false });
        let statement = format!(
            "INSERT INTO shop.orders (id, version, customer_id, status, total, email) VALUES \
             ({id}, 1, {customer}, 'placed', {}, 'customer{customer}@example.com')",
            euros(cents)
        );
        let story = format!("order {id} is placed by customer {customer}: {}", euros(cents));
        let changes = vec![Change { table: "orders", id, operation: 'c', version: 1 }];
        (vec![statement], Committed { changes, story })
    }

    /// Advances an order: an open one is paid or cancelled; a paid one is shipped, and deleted later.
    fn advance(&mut self) -> (Vec<String>, Committed) {
        let index = self.random.random_range(0..self.open.len());
        let cancelled = self.random.random_range(0..10) == 0;
        let Order { id, version, cents, paid } = self.open[index];
        let change = |operation, version| Change { table: "orders", id, operation, version };
        let set = |status: &str| {
            format!("UPDATE shop.orders SET version = {}, status = '{status}' WHERE id = {id}", version + 1)
        };
        if paid {
            self.open.swap_remove(index);
            let statements = vec![set("shipped"), format!("DELETE FROM shop.orders WHERE id = {id}")];
            let changes = vec![change('u', version + 1), change('d', version + 1)];
            (statements, Committed { changes, story: format!("order {id} is shipped and archived") })
        } else if cancelled {
            self.open.swap_remove(index);
            let changes = vec![change('u', version + 1)];
            (vec![set("cancelled")], Committed { changes, story: format!("order {id} is cancelled") })
        } else {
            self.open[index] = Order { id, version: version + 1, cents, paid: true };
            self.payments += 1;
            let payment = self.payments;
            let insert = format!("INSERT INTO shop.payments VALUES ({payment}, 1, {id}, {})", euros(cents));
            let paid = Change { table: "payments", id: payment, operation: 'c', version: 1 };
            let changes = vec![change('u', version + 1), paid];
            (vec![set("paid"), insert], Committed { changes, story: format!("order {id} is paid: {}", euros(cents)) })
        }
    }
}

fn euros(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
