//! Wall clock of the hot path: `cargo bench -p symm-core --bench wall`

mod scenes;

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use scenes::{Scene, Step};
use std::sync::Mutex;
use std::time::Duration;

fn hot_path(criterion: &mut Criterion) {
    let steps = [
        ("scope, nothing new", Step::Scope),
        ("scope with a size freed before", Step::Reuse),
        ("buffer to window", Step::Window),
    ];
    for (name, step) in steps {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|steps| {
                let took = Mutex::new(Duration::ZERO);
                let played = scenes::run(Scene::of(step), steps as usize, |all| {
                    let begun = Instant::now();
                    all()?;
                    *took.lock().expect("nobody panics") = begun.elapsed();
                    Ok(())
                });
                played.expect("the scene plays");
                took.into_inner().expect("nobody panics")
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = hot_path
}
criterion_main!(benches);
