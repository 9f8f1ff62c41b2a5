// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Faults of a cable: what may happen to a data frame, how often, and a seeded die to decide.

/// Probabilities (0.0 to 1.0) of what happens to each data frame of a cable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rules {
    /// The frame is lost after its Tx completion.
    pub drop: f64,
    /// A byte changes and the Rx completion says CRC error.
    pub corrupt: f64,
    /// The frame arrives twice.
    pub duplicate: f64,
    /// The frame arrives `delay_ns` late; later ones overtake it.
    pub delay: f64,
    pub delay_ns: u64,
    /// The frame changes places with the next one of its ring.
    pub reorder: f64,
    /// The Rx descriptor is completed and no interrupt event follows.
    pub strand: f64,
    /// The interrupt of the Rx completion is lost on its way; the status bit stays set.
    pub lost_irq: f64,
    /// A frame that finds no Rx descriptor is dropped (with the overflow bit) instead of waiting for one.
    pub overrun: f64,
}

impl Rules {
    fn any(&self) -> bool {
        let all = [
            self.drop,
            self.corrupt,
            self.duplicate,
            self.delay,
            self.reorder,
            self.strand,
            self.lost_irq,
            self.overrun,
        ];
        all.iter().any(|&probability| probability > 0.0)
    }
}

/// What the die says about one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub drop: bool,
    pub corrupt: bool,
    pub duplicate: bool,
    pub delay: bool,
    pub reorder: bool,
    pub strand: bool,
    pub lost_irq: bool,
    pub overrun: bool,
}

/// How often each fault was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    pub drop: u64,
    pub corrupt: u64,
    pub duplicate: u64,
    pub delay: u64,
    pub reorder: u64,
    pub strand: u64,
    pub lost_irq: u64,
    pub overrun: u64,
}

/// The faults of one cable.
#[derive(Clone, Debug)]
pub struct Faults {
    rules: Rules,
    active: bool,
    random: Random,
    pub injected: Injected,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Faults {
            rules: Rules::default(),
            active: false,
            random: Random::new(seed),
            injected: Injected::default(),
        }
    }

    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Sets the rules; a seed restarts the die.
    pub fn set(&mut self, rules: Rules, seed: Option<u64>) {
        self.rules = rules;
        self.active = rules.any();
        if let Some(seed) = seed {
            self.random = Random::new(seed);
        }
    }

    /// Decides about one frame. Costs nothing while no rule is set.
    #[inline]
    pub fn roll(&mut self) -> Fate {
        if self.active {
            self.roll_all()
        } else {
            Fate::default()
        }
    }

    fn roll_all(&mut self) -> Fate {
        // One draw per rule whatever the outcome of the others, so that a rule's pattern does not depend on the rest.
        let rules = self.rules;
        let mut draw = |probability: f64| self.random.chance(probability);
        Fate {
            drop: draw(rules.drop),
            corrupt: draw(rules.corrupt),
            duplicate: draw(rules.duplicate),
            delay: draw(rules.delay),
            reorder: draw(rules.reorder),
            strand: draw(rules.strand),
            lost_irq: draw(rules.lost_irq),
            overrun: draw(rules.overrun),
        }
    }

    /// Any number below `limit` (which must not be 0), for the place of a damaged byte.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.random.next() % limit.max(1) as u64) as usize
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough for dice.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn chance(&mut self, probability: f64) -> bool {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        unit < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same_fates() {
        let rules = Rules {
            drop: 0.3,
            reorder: 0.2,
            ..Rules::default()
        };
        let run = |seed| {
            let mut faults = Faults::new(0);
            faults.set(rules, Some(seed));
            (0..1000).map(|_| faults.roll()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let drops = run(7).iter().filter(|fate| fate.drop).count();
        assert!((250..350).contains(&drops), "{drops}");
    }

    #[test]
    fn splitmix_matches_the_reference_sequence() {
        // First outputs for seed 1234567, as in the reference implementation's published test.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn certainty_and_impossibility_hold() {
        let mut faults = Faults::new(1);
        faults.set(
            Rules {
                drop: 1.0,
                ..Rules::default()
            },
            None,
        );
        assert!((0..100).all(|_| faults.roll().drop));
        faults.set(Rules::default(), None);
        assert!((0..100).all(|_| faults.roll() == Fate::default()));
    }
}
