//! No prelude, symm-core under another name, the usual names taken, and all of it from a macro.

#![no_implicit_prelude]
#![forbid(unsafe_code)]
#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]

extern crate std;
extern crate symm_core as renamed;

use renamed::{Group, Host, World};

mod tags {
    ::renamed::groups! {
        crate = ::renamed;
        pub Tp = "tp";
        pub Cp = "cp";
        arena(Tp, Cp);
    }
}

mod core {}

macro_rules! layer {
    ($symmetric:ident, $block:ident, $group:ident: $tag:ty, $returns:ty, $body:block) => {
        #[renamed::symmetric(group = $group, crate = $crate::renamed)]
        fn $symmetric($group: &Group<$tag, Host>) -> $returns $body

        fn $block($group: &Group<$tag, Host>) -> $returns {
            renamed::symm!(group = $group, crate = $crate::renamed, $body)
        }
    };
}

layer!(function, block, group: tags::Tp, renamed::Result<u32>, {
    return std::result::Result::Ok(3);
});

fn main() {
    let worlds = World::<Host>::run(1, |world| {
        let group = world.split(0, 0)?;
        std::result::Result::Ok((function(&group)?, block(&group)?))
    });
    std::assert!(std::matches!(worlds, std::result::Result::Ok(results) if results == [(3, 3)]));
}
