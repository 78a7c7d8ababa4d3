-- what users bring and what the farm offers. the bytes lie in the object store, under the hash; a row says whose they are.

create table upload (
    id           uuid primary key,
    owner_id     uuid        not null references account on delete cascade,
    purpose      text        not null check (purpose in ('image', 'adapter')),
    sha256       bytea       not null check (length(sha256) = 32),
    bytes        bigint      not null check (bytes > 0),
    content_type text        not null,
    width        int check (width > 0),
    height       int check (height > 0),
    object_key   text        not null,
    created_at   timestamptz not null default now(),
    unique (owner_id, id),
    check ((purpose = 'image') = (width is not null and height is not null))
);
alter table upload enable row level security;
alter table upload force row level security;
grant select, insert, delete on upload to flowai_app;
grant select on upload to flowai_coordinator;
create policy own on upload to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy read_all on upload for select to flowai_coordinator using (true);

create table adapter (
    id          uuid primary key,
    owner_id    uuid        not null references account on delete cascade,
    name        text        not null check (length(name) between 1 and 80),
    sha256      bytea       not null check (length(sha256) = 32),
    bytes       bigint      not null check (bytes > 0),
    family      text        not null,
    -- what the gate found: format, ranks, modules touched.
    report      jsonb       not null,
    object_key  text        not null,
    created_at  timestamptz not null default now(),
    unique (owner_id, id),
    constraint adapter_already_stored unique (owner_id, sha256)
);
alter table adapter enable row level security;
alter table adapter force row level security;
grant select, insert, delete on adapter to flowai_app;
grant update (name) on adapter to flowai_app;
grant select on adapter to flowai_coordinator;
create policy own on adapter to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy read_all on adapter for select to flowai_coordinator using (true);

-- models that some node offered once; `node_offer` says which are offered still. the leader writes, everybody signed in reads.
create table model (
    id         text primary key check (id ~ '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$'),
    sha256     bytea       not null check (length(sha256) = 32),
    family     text        not null,
    -- as `ModelOffer` in actors/src/messages.rs.
    offer      jsonb       not null,
    updated_at timestamptz not null default now()
);
alter table model enable row level security;
alter table model force row level security;
grant select on model to flowai_app;
grant select, insert, update on model to flowai_coordinator;
create policy read_signed_in on model for select to flowai_app using ((select app_user()) is not null);
create policy all_rows on model to flowai_coordinator using (true) with check (true);
