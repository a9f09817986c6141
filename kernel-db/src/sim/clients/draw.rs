//! What clients do: drawn from a mix of all kinds of jobs, over rows that are few at a time, so that clients meet.

use super::Clients;
use crate::sim::load::{
    ACCOUNT, ACCOUNTS, BACK, BACKS, BOXES, COUNTER, COUNTERS, Job, LIST, REGISTER, Row, Step,
};
use crate::sim::rng::Rng;

/// Registers and lists of one group in use at a time, and how many operations begin with one before another takes its
/// place.
pub(super) const REGISTERS: usize = 2;
pub(super) const LISTS: usize = 3;
pub(super) const USES_MAX: u64 = 50;

pub(super) struct Active {
    pub(super) row: u64,
    pub(super) uses: u64,
}

impl Clients {
    pub(super) fn draw(&mut self, lane: usize, op: u64, rng: &mut Rng) -> Job {
        let group = rng.range(0, u64::from(self.groups)) as usize;
        let groups = u64::from(self.groups);
        let row = |n: u64| n * groups + group as u64;
        if self.rollbacks && rng.range(0, 6) == 0 {
            return self.marks(lane, op, rng);
        }
        if self.waits && rng.range(0, 6) == 0 {
            let place = row(rng.range(0, BOXES));
            return match rng.range(0, 2) {
                0 => Job::Send {
                    to: place,
                    message: op,
                },
                _ => Job::Receive {
                    from: place,
                    for_us: rng.range(50_000, 2_500_000),
                },
            };
        }
        match rng.range(0, 100) {
            0..10 => Job::Put {
                register: self.register(group, rng),
                value: op,
            },
            10..18 => {
                let register = self.register(group, rng);
                let (of, value) = self.lanes[lane].seen;
                let from = if of == register { value } else { 0 };
                Job::Swap {
                    register,
                    from,
                    to: op,
                }
            }
            18..34 => Job::Get {
                register: self.register(group, rng),
            },
            34..44 => Job::Count {
                counter: row(rng.range(0, COUNTERS)),
            },
            44..56 => Job::Lists(self.steps(Some(group), op, rng)),
            56..68 => Job::Lists(self.steps(None, op, rng)),
            68..73 => Job::Spoil(self.steps(Some(group), op, rng)),
            73..80 => Job::Transfer {
                from: row(rng.range(0, ACCOUNTS)),
                to: row(rng.range(0, ACCOUNTS)),
                amount: rng.range(1, 100),
            },
            80..87 => Job::Transfer {
                from: rng.range(0, ACCOUNTS * groups),
                to: rng.range(0, ACCOUNTS * groups),
                amount: rng.range(1, 100),
            },
            87..90 => Job::Audit((0..ACCOUNTS * groups).collect()),
            _ => Job::Snapshot {
                ahead_us: rng.range(0, 2) * rng.range(0, 400_000),
                rows: self.snapshot_rows(),
            },
        }
    }

    /// Rows that are brought back to earlier times, and writes to them.
    fn marks(&mut self, lane: usize, op: u64, rng: &mut Rng) -> Job {
        let (all, known) = (BACKS * u64::from(self.groups), self.lanes[lane].clock);
        if known > 0 && rng.range(0, 12) == 0 {
            let to_ts = known.saturating_sub(rng.range(0, 6_000_000));
            return Job::Rollback { to_ts };
        }
        let first = rng.range(0, all);
        let rows = match rng.range(0, 2) {
            0 => vec![first],
            _ => vec![first, (first + 1) % all],
        };
        Job::Mark { rows, value: op }
    }

    fn snapshot_rows(&mut self) -> Vec<Row> {
        for register in self.registers.iter_mut().flatten() {
            register.uses += 1;
        }
        let lists = self.lists.iter().flatten().map(|a| (LIST, a.row));
        let registers = self.registers.iter().flatten();
        let registers = registers.filter(|a| a.uses < 2 * USES_MAX);
        let registers = registers.map(|a| (REGISTER, a.row));
        let all = |of_group: u64| 0..of_group * u64::from(self.groups);
        let counters = all(COUNTERS).map(|row| (COUNTER, row));
        let accounts = all(ACCOUNTS).map(|row| (ACCOUNT, row));
        let backs = all(BACKS * u64::from(self.rollbacks)).map(|row| (BACK, row));
        lists
            .chain(backs)
            .chain(registers)
            .chain(counters)
            .chain(accounts)
            .collect()
    }

    fn register(&mut self, group: usize, rng: &mut Rng) -> u64 {
        let place = rng.range(0, REGISTERS as u64) as usize;
        use_row(
            &mut self.registers[group][place],
            group,
            self.groups,
            &mut self.rows,
        )
    }

    /// One to four reads and appends, now and then of one list twice; of one group, or of any.
    fn steps(&mut self, group: Option<usize>, op: u64, rng: &mut Rng) -> Vec<Step> {
        let count = rng.range(1, 5);
        let mut steps = Vec::new();
        for n in 0..count {
            let any = rng.range(0, u64::from(self.groups)) as usize;
            let group = group.unwrap_or(any);
            let place = rng.range(0, LISTS as u64) as usize;
            let list = use_row(
                &mut self.lists[group][place],
                group,
                self.groups,
                &mut self.rows,
            );
            steps.push(match rng.range(0, 2) {
                0 => Step::Read(list),
                _ => Step::Append(list, op * 8 + n),
            });
        }
        steps
    }
}

/// Counts a use; a row that was used often is replaced first.
fn use_row(active: &mut Active, group: usize, groups: u32, rows: &mut u64) -> u64 {
    if active.uses >= USES_MAX {
        *active = Active {
            row: *rows * u64::from(groups) + group as u64,
            uses: 0,
        };
        *rows += 1;
    }
    active.uses += 1;
    active.row
}
