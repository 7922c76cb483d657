//! What is kept for the next start.

use std::fs;
use std::path::Path;

use symm_core::host::{Launched, Options};
use symm_core::{Config, Host};

use crate::{Cp, FASTER, FOUND, Folder, NOTHING, Tp, config, configured, slow_at_16k, sums};

#[test]
fn the_next_start_knows() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k);
    let first = config.run(2, |world| {
        world.split::<Tp>(0, 0)?.calibrate()?;
        // Also a group that is made later.
        sums(&world.split::<Tp>(0, 0)?)
    });
    assert_eq!(first.unwrap(), [FOUND; 2]);
    folder.file();
    let second = config.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        assert_eq!(world.pool().stats().twins, 0, "before the first window");
        sums(&tp)
    });
    assert_eq!(second.unwrap(), [FOUND; 2]);
    let switched_off = config.clone().tuned(false);
    let off = switched_off.run(2, |world| sums(&world.split::<Tp>(0, 0)?));
    assert_eq!(off.unwrap(), [NOTHING; 2]);
}

#[test]
fn a_file_that_goes_is_gone_for_all_ranks() {
    let folder = Folder::new();
    let of = |folder: &Folder| config(folder, "slow at 16k", slow_at_16k);
    of(&folder)
        .run(2, |world| world.split::<Tp>(0, 0)?.calibrate())
        .unwrap();
    let paths = of(&folder).run(2, |world| {
        let before = world.split::<Tp>(0, 0)?;
        // Rank 0 has read it.
        if world.rank() == 1 {
            let _ = fs::remove_dir_all(&folder.0);
        }
        world.split::<Cp>(0, 0)?;
        let after = world.split::<Tp>(0, 0)?;
        Ok((sums(&before)?, sums(&after)?))
    });
    assert_eq!(paths.unwrap(), [(FOUND, NOTHING); 2]);
}

#[test]
fn other_machines_and_settings_have_other_files() {
    let folder = Folder::new();
    let kept = config(&folder, "slow at 16k", slow_at_16k);
    kept.run(2, |world| world.split::<Tp>(0, 0)?.calibrate())
        .unwrap();
    let of = |ranks, config: Config<Host>| {
        config
            .run(ranks, |world| sums(&world.split::<Tp>(0, 0)?))
            .unwrap()
    };
    let costs = || Options::default().costs("slow at 16k", slow_at_16k);
    assert_eq!(of(3, kept.clone()), [NOTHING; 3], "ranks");
    let version = configured(&folder, costs().nccl_version(23_004));
    assert_eq!(of(2, version), [NOTHING; 2], "NCCL");
    let model = config(&folder, "another", slow_at_16k);
    assert_eq!(of(2, model), [NOTHING; 2], "model");
    let seed = configured(&folder, costs().seed(77));
    assert_eq!(of(2, seed), [FOUND; 2], "what changes nothing");
    // A file under the right name, of another machine.
    let file = folder.file();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("slow at 16k", "slow at 17k")).unwrap();
    assert_eq!(of(2, kept), [NOTHING; 2], "foreign");
}

#[test]
fn a_damaged_file_is_passed_over_and_replaced() {
    let folder = Folder::new();
    let config = config(&folder, "slow at 16k", slow_at_16k);
    let calibrate = || {
        config
            .run(2, |world| world.split::<Tp>(0, 0)?.calibrate())
            .unwrap()
    };
    let starts = || {
        config
            .run(2, |world| sums(&world.split::<Tp>(0, 0)?))
            .unwrap()
    };
    calibrate();
    let file = folder.file();
    let whole = fs::read(&file).unwrap();
    let damages: [&dyn Fn(&Path); 6] = [
        &|file| fs::write(file, &whole[..whole.len() / 2]).unwrap(),
        &|file| fs::write(file, []).unwrap(),
        &|file| fs::write(file, [0xFF; 300]).unwrap(),
        &|file| fs::write(file, vec![b'x'; 1 << 20]).unwrap(),
        &|file| {
            let mut one = whole.clone();
            let at = one.len() - 60;
            one[at] ^= 1;
            fs::write(file, one).unwrap();
        },
        &|file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(&file);
        assert_eq!(starts(), [NOTHING; 2], "damage {number}");
        if file.is_dir() {
            // Cannot be replaced: said, and no more.
            assert!(!calibrate()[0].cached);
            fs::remove_dir(&file).unwrap();
        }
        assert!(calibrate()[0].cached);
        assert_eq!(starts(), [FOUND; 2], "after damage {number}");
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
    assert_eq!(folder.files().len(), 1, "no file is left half written");
}

#[test]
fn a_noisy_sweep_is_used_and_not_kept() {
    let folder = Folder::new();
    let costs = |call: &Launched| match call.symmetric {
        true => 10_000 + 1_000 * (call.nth / 2 % 5),
        false => 1_000,
    };
    let found = config(&folder, "noisy", costs).run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let found = tp.calibrate()?;
        assert_eq!(sums(&tp)?, [FASTER; 3]);
        Ok((found.noisy, found.cached))
    });
    assert_eq!(found.unwrap(), [(true, false); 2]);
    assert!(folder.files().is_empty());
}
