//! The scripts that run inside Redis; `lua/common.lua` describes the keys.

use redis::Script;

macro_rules! scripts {
    ($($name:ident $(with $($library:ident)+)?),+ $(,)?) => {
        /// All scripts.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: script(&[
                        $($(include_str!(concat!("lua/", stringify!($library), ".lua")),)+)?
                        include_str!(concat!("lua/", stringify!($name), ".lua")),
                    ]),)+
                }
            }
        }
    };
}

scripts!(
    claim,
    derive with tree,
    due,
    epoch,
    find,
    forget_overlap with tree,
    found,
    insert with tree room,
    keep,
    peppers,
    remove with tree,
    replace with tree room,
    revoke with tree,
    revoke_customer with tree,
    revoke_older with tree,
    schedule,
    swap,
    touch,
    unlist,
    update_customer,
);

fn script(parts: &[&str]) -> Script {
    Script::new(&[include_str!("lua/common.lua"), &parts.concat()].concat())
}
