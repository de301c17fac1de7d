//! The scripts that run inside Redis; `lua/keys.lua` describes the keys.

use redis::Script;

pub(super) struct Scripts {
    pub(super) find: Script,
    pub(super) insert: Script,
    pub(super) list: Script,
    pub(super) peppers: Script,
    pub(super) replace: Script,
    pub(super) revoke: Script,
    pub(super) update_customer: Script,
    pub(super) purge: Script,
    pub(super) rewrite: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |text| Script::new(&[include_str!("lua/keys.lua"), text].concat());
        Self {
            find: script(include_str!("lua/find.lua")),
            insert: script(include_str!("lua/insert.lua")),
            list: script(include_str!("lua/list.lua")),
            peppers: script(include_str!("lua/peppers.lua")),
            replace: script(include_str!("lua/replace.lua")),
            revoke: script(include_str!("lua/revoke.lua")),
            update_customer: script(include_str!("lua/update_customer.lua")),
            purge: script(include_str!("lua/purge.lua")),
            rewrite: script(include_str!("lua/rewrite.lua")),
        }
    }
}
