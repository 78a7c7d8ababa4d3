-- objects that no row names any more since a removal was committed. whoever removes them removes the row; the leader does what an api did
-- not come to. no reference to the account: this outlives it.
create table leftover (
    id         uuid primary key,
    owner_id   uuid        not null,
    name       text        not null check (length(name) between 1 and 200),
    -- everything below the name, and not an object of this name.
    is_prefix  boolean     not null,
    created_at timestamptz not null default now(),
    -- the leader removes what is named here: no more than what a removal leaves.
    check (case when is_prefix then name ~ '^(clips|checkpoints)/[0-9a-f-]{36}/$'
                else starts_with(name, 'uploads/' || owner_id || '/') or starts_with(name, 'adapters/' || owner_id || '/')
                     or name ~ '^clips/[0-9a-f-]{36}/[0-9]+/[a-z.]+$' end)
);
alter table leftover enable row level security;
alter table leftover force row level security;
grant select, insert, delete on leftover to flowai_app;
grant select, delete on leftover to flowai_coordinator;
create policy own on leftover to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy of_all on leftover to flowai_coordinator using (true);
