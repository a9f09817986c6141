//! Accounts: reads of one by its key, and transfers between them.
//!
//! Transfers: one operation is one call, which moves money within a branch (one partition) or, for a
//! fraction of the operations, between two branches (two partitions). No money may be made or lost.

use std::rc::Rc;

use anyhow::bail;
use dbos_client::Client;

use crate::run::{Operation, Prepared};

const FILES: [(&str, &str); 1] = [(
    "bench/sql/transfers.sql",
    include_str!("../sql/transfers.sql"),
)];
/// Branches: partition keys. Neighbours are in different partitions unless there is only one.
const BRANCHES: u32 = 64;
const BALANCE: i64 = 1_000;

#[derive(Clone, Copy)]
struct Bank {
    accounts_per_branch: u32,
    multi_partition: f64,
    hot: bool,
}

/// One operation. `other` is the branch of the second account if it is another one.
#[derive(Debug, PartialEq, Eq)]
struct Transfer {
    branch: i32,
    account: i32,
    other: Option<i32>,
    other_account: i32,
    amount: i64,
}

pub(crate) async fn prepare(
    client: Client,
    multi_partition: f64,
    accounts: u32,
    hot: bool,
) -> anyhow::Result<Prepared> {
    let bank = Bank {
        accounts_per_branch: accounts.div_ceil(BRANCHES).max(2),
        multi_partition,
        hot,
    };
    open(&client, bank).await?;
    let calls = client.clone();
    let operation: Operation = Rc::new(move |n| {
        let (client, transfer) = (calls.clone(), bank.transfer(n));
        Box::pin(async move { transfer.run(&client).await.map_err(|e| e.to_string()) })
    });
    Ok(Prepared::conserving(operation, move || check(client, bank)))
}

/// Point SELECTs, spread evenly over the accounts.
pub(crate) async fn prepare_reads(client: Client, accounts: u32) -> anyhow::Result<Prepared> {
    let bank = Bank {
        accounts_per_branch: accounts.div_ceil(BRANCHES).max(2),
        multi_partition: 0.0,
        hot: false,
    };
    open(&client, bank).await?;
    let reads = client.clone();
    let operation: Operation = Rc::new(move |n| {
        let (
            client,
            Transfer {
                branch, account, ..
            },
        ) = (reads.clone(), bank.transfer(n));
        Box::pin(async move {
            let sql = "SELECT balance FROM bench_account WHERE branch = $1 AND account = $2";
            let rows = client.read(branch, sql, &[&branch, &account]).await;
            let rows = rows.map_err(|e| e.to_string())?;
            match rows.first().map(|row| row.try_get::<_, i64>(0)) {
                Some(Ok(BALANCE)) if rows.len() == 1 => Ok(()),
                found => Err(format!("account {account} of branch {branch} is {found:?}")),
            }
        })
    });
    Ok(Prepared::conserving(operation, move || check(client, bank)))
}

/// Every account with the same balance, whatever an earlier run has left.
async fn open(client: &Client, bank: Bank) -> anyhow::Result<()> {
    client.install_schema(&FILES).await?;
    let per_branch = bank.accounts_per_branch as i32;
    let open = (0..BRANCHES as i32).map(|branch| {
        let client = client.clone();
        async move {
            let sql = "SELECT bench_open_accounts($1, $2, $3)";
            client
                .call(branch, sql, &[&branch, &per_branch, &BALANCE])
                .await
        }
    });
    futures::future::try_join_all(open).await?;
    Ok(())
}

impl Bank {
    /// The same for the same `n`, whatever the target.
    fn transfer(&self, n: u64) -> Transfer {
        let mut chance = Chance(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        // 53 bits are a fraction's.
        let crosses = (chance.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let (mut branch, mut account) = (
            chance.below(BRANCHES) as i32,
            chance.below(self.accounts_per_branch) as i32,
        );
        if self.hot {
            (branch, account) = (0, 0);
        }
        let step = 1 + chance.below(self.accounts_per_branch - 1) as i32;
        let other_account = (account + step) % self.accounts_per_branch as i32;
        let amount = 1 + i64::from(chance.below(9));
        if crosses >= self.multi_partition {
            return Transfer {
                branch,
                account,
                other: None,
                other_account,
                amount,
            };
        }
        // A neighbour: in another partition however many there are.
        let last = branch == BRANCHES as i32 - 1;
        let lower = if last { branch - 1 } else { branch };
        Transfer {
            branch: lower,
            account: if last { other_account } else { account },
            other: Some(lower + 1),
            other_account: if last { account } else { other_account },
            amount: if last { -amount } else { amount },
        }
    }
}

impl Transfer {
    async fn run(&self, client: &Client) -> dbos_client::Result<()> {
        let Transfer {
            branch,
            account,
            other,
            other_account,
            amount,
        } = self;
        match other {
            None => {
                let sql = "SELECT bench_transfer($1, $2, $3, $4)";
                client
                    .call(*branch, sql, &[branch, account, other_account, amount])
                    .await?
            }
            Some(other) => {
                let sql = "SELECT bench_transfer_between($1, $2, $3, $4, $5)";
                client
                    .call(
                        *branch,
                        sql,
                        &[branch, account, other, other_account, amount],
                    )
                    .await?
            }
        };
        Ok(())
    }
}

async fn check(client: Client, bank: Bank) -> anyhow::Result<()> {
    let sql = "SELECT sum(balance)::bigint, count(*) FROM bench_account";
    let rows = client.read_all(sql, &[]).await?;
    let (total, accounts): (i64, i64) = (rows[0].get(0), rows[0].get(1));
    let expected = i64::from(BRANCHES * bank.accounts_per_branch);
    if (total, accounts) != (expected * BALANCE, expected) {
        bail!(
            "{accounts} accounts hold {total} in all; {expected} were opened with {} in all",
            expected * BALANCE
        );
    }
    Ok(())
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (self.next() % u64::from(bound.max(1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_is_what_was_asked_for_and_accounts_differ() {
        for (fraction, hot) in [(0.0, false), (0.01, false), (0.5, true), (1.0, false)] {
            let bank = Bank {
                accounts_per_branch: 3,
                multi_partition: fraction,
                hot,
            };
            let mut crossing = 0;
            for n in 0..20_000 {
                let t = bank.transfer(n);
                assert!(t.branch >= 0 && t.other.is_none_or(|o| o == t.branch + 1 && o < 64));
                assert!(t.other.is_some() || t.account != t.other_account, "{t:?}");
                crossing += u32::from(t.other.is_some());
            }
            let found = f64::from(crossing) / 20_000.0;
            assert!((found - fraction).abs() < 0.02, "{found} of {fraction}");
        }
    }
}
