//! Offering load: closed loop (so many operations in flight) or open loop (so many per second, whatever the answers).
//!
//! In the open loop an operation's latency counts from the moment it was meant to start, so that a stall of the target is
//! seen by every operation it delayed. Timers have a grain of one millisecond, which open-loop latencies include.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Latencies are kept in microseconds, to three digits, up to this; longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Errors kept word for word; the rest are counted.
const ERRORS_KEPT: usize = 5;

/// How load is offered.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub in_flight: u32,
    /// Operations per second; `None` is the closed loop.
    pub rate: Option<f64>,
    /// Not measured, before `duration`.
    pub warm_up: Duration,
    pub duration: Duration,
}

/// What came back.
pub struct Measured {
    /// Microseconds of successful operations that ended within the measured time.
    pub latency: Histogram<u64>,
    pub elapsed: Duration,
    /// Successful operations of the whole run, warm-up included.
    pub acknowledged: u64,
    pub errors: u64,
    pub first_errors: Vec<String>,
}

impl Measured {
    pub fn throughput_per_s(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }
}

struct Shared {
    latency: RefCell<Histogram<u64>>,
    acknowledged: Cell<u64>,
    errors: Cell<u64>,
    first_errors: RefCell<Vec<String>>,
    next: Cell<u64>,
}

impl Shared {
    fn record(&self, result: Result<(), String>, latency: Duration, counts: bool) {
        match result {
            Ok(()) => {
                self.acknowledged.set(self.acknowledged.get() + 1);
                if counts {
                    let us = (latency.as_micros() as u64).clamp(1, LATENCY_US_MAX);
                    self.latency.borrow_mut().saturating_record(us);
                }
            }
            Err(error) => {
                self.errors.set(self.errors.get() + 1);
                let mut kept = self.first_errors.borrow_mut();
                if kept.len() < ERRORS_KEPT {
                    kept.push(error);
                }
            }
        }
    }
}

/// Runs `operation(n)` for n = 0, 1, 2, ... until the time is over, then waits for what is in flight. Call it inside a
/// `LocalSet`. `progress` is called about every second with the seconds passed and operations done.
pub async fn run<Op, Fut>(load: Load, operation: Op, progress: impl Fn(Duration, u64)) -> Measured
where
    Op: Fn(u64) -> Fut + 'static,
    Fut: Future<Output = Result<(), String>> + 'static,
{
    let shared = Rc::new(Shared {
        latency: RefCell::new(
            Histogram::new_with_max(LATENCY_US_MAX, 3).expect("bounds are constants"),
        ),
        acknowledged: Cell::new(0),
        errors: Cell::new(0),
        first_errors: RefCell::new(Vec::new()),
        next: Cell::new(0),
    });
    let operation = Rc::new(operation);
    let start = Instant::now();
    let tasks: Vec<_> = (0..load.in_flight)
        .map(|_| {
            tokio::task::spawn_local(one_in_flight(
                load,
                start,
                shared.clone(),
                operation.clone(),
            ))
        })
        .collect();
    for task in tasks {
        let mut task = task;
        while tokio::time::timeout(Duration::from_secs(1), &mut task)
            .await
            .is_err()
        {
            progress(start.elapsed(), shared.acknowledged.get());
        }
    }
    let elapsed = load.duration;
    Measured {
        latency: shared.latency.borrow().clone(),
        elapsed,
        acknowledged: shared.acknowledged.get(),
        errors: shared.errors.get(),
        first_errors: shared.first_errors.borrow().clone(),
    }
}

async fn one_in_flight<Op, Fut>(load: Load, start: Instant, shared: Rc<Shared>, operation: Rc<Op>)
where
    Op: Fn(u64) -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let measure_from = start + load.warm_up;
    let end = measure_from + load.duration;
    loop {
        let number = shared.next.get();
        let began = match load.rate {
            None => Instant::now(),
            Some(rate) => start + Duration::from_secs_f64(number as f64 / rate),
        };
        if began >= end {
            return;
        }
        shared.next.set(number + 1);
        if load.rate.is_some() {
            tokio::time::sleep_until(began.into()).await;
        }
        let result = operation(number).await;
        let now = Instant::now();
        shared.record(result, now - began, now >= measure_from && now < end);
        if load.rate.is_none() {
            // A connection that answers at once must not starve the others.
            tokio::task::coop::consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(future))
    }

    fn load(in_flight: u32, rate: Option<f64>) -> Load {
        Load {
            in_flight,
            rate,
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(300),
        }
    }

    #[test]
    fn a_stall_is_seen_by_every_operation_it_delays_in_the_open_loop() {
        let stalled = Rc::new(Cell::new(false));
        let operation = move |_| {
            let first = !stalled.replace(true);
            async move {
                if first {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            }
        };
        let measured = block_on(run(load(1, Some(100.0)), operation, |_, _| ()));
        let delayed = measured.latency.len() - measured.latency.count_between(0, 20_000);
        assert!(
            delayed >= 5,
            "{delayed} of {} operations saw the stall",
            measured.latency.len()
        );
    }

    #[test]
    fn errors_are_counted_and_the_first_are_kept() {
        let measured = block_on(run(
            load(2, Some(200.0)),
            |n| async move {
                if n % 2 == 0 {
                    Err(format!("no {n}"))
                } else {
                    Ok(())
                }
            },
            |_, _| (),
        ));
        assert!(measured.errors > 10 && measured.acknowledged > 10);
        assert_eq!(measured.first_errors.len(), ERRORS_KEPT);
    }
}
