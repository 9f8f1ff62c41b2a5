// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Seeds with direct lanes: `SIM_SEED=n cargo test -p sim --test windows -- --nocapture` replays one.

/// Fewer where the compiler does not help.
const COUNT: u64 = if cfg!(debug_assertions) { 60 } else { 1500 };

#[test]
fn every_seed_with_windows_keeps_every_rule() {
    let windows = sim::run_windows_seeds(0, COUNT).windows;
    if std::env::var_os("SIM_SEED").is_some() {
        return;
    }
    // What is to be tried is tried. Few seeds may have none of what is rare.
    assert!(windows.carried * 2 > windows.asked, "{windows:?}");
    if COUNT >= 1000 {
        assert!(
            windows.denied > COUNT / 4 && windows.lost > COUNT / 4 && windows.resets > COUNT / 20,
            "{windows:?}"
        );
        assert!(windows.waited > 0, "{windows:?}");
    }
}

#[test]
fn the_same_seed_with_windows_runs_the_same_way_twice() {
    for seed in 0..20 {
        let (first, again) = (sim::run_windows(seed), sim::run_windows(seed));
        assert_eq!(first.ok(), again.ok(), "seed {seed}");
    }
}
