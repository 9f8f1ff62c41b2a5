// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `corpus unpack TARGET DIRECTORY`, `corpus pack TARGET DIRECTORY`: between the kept inputs and libFuzzer's form.
//! `corpus replay TARGET FILE...`: runs inputs that were found.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", target, directory] => {
            let count = fuzz::corpus::unpack(&fuzz::corpus::file(target), Path::new(directory))?;
            println!("{target}: {count} inputs");
        }
        ["pack", target, directory] => {
            let count = fuzz::corpus::pack(Path::new(directory), &fuzz::corpus::file(target))?;
            println!("{target}: {count} inputs");
        }
        ["replay", target, ref files @ ..] => {
            let found = fuzz::TARGETS.iter().find(|(name, _)| *name == target);
            let (_, run) = found.ok_or("no such target")?;
            for file in files {
                println!("{file}");
                run(&std::fs::read(file)?);
            }
        }
        _ => return Err("corpus unpack|pack TARGET DIRECTORY, or corpus replay TARGET FILE...".into()),
    }
    Ok(())
}
