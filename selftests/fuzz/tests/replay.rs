// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Every input that was worth keeping, through the target that it was found with.

use fuzz::corpus;

#[test]
fn the_kept_inputs_find_nothing() {
    for (name, target) in fuzz::TARGETS {
        let inputs = corpus::read(&corpus::file(name)).expect("the target's kept inputs");
        assert!(!inputs.is_empty(), "{name}: nothing kept");
        for (index, input) in inputs.iter().enumerate() {
            let outcome = std::panic::catch_unwind(|| target(input));
            assert!(outcome.is_ok(), "{name}: input {} of the file", index + 1);
        }
    }
}
