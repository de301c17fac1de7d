//! The scripts that run inside Redis; `lua/common.lua` describes the keys.

use redis::Script;

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// All scripts.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: script(include_str!(concat!("lua/", stringify!($name), ".lua"))),)+
                }
            }
        }
    };
}

scripts!(
    claim,
    due,
    epoch,
    find,
    found,
    insert,
    keep,
    peppers,
    remove,
    replace,
    revoke,
    revoke_customer,
    revoke_older,
    schedule,
    swap,
    touch,
    unlist,
    update_customer,
);

fn script(text: &str) -> Script {
    Script::new(&[include_str!("lua/common.lua"), text].concat())
}
