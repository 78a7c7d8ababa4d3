-- who may become a render node, and what operators want of each: join tokens, the nodes that joined by them, drains and
-- revocations. operators write here through the api; the leader counts tokens down and signs; every coordinator reads.

-- whether the transaction's user is an administrator. runs as the caller, so the policies of `account` bind it.
create function app_is_admin() returns boolean
    language sql stable
    return exists (select from account where id = (select app_user()) and role = 'admin' and suspended_at is null);

revoke all on function app_is_admin() from public;
grant execute on function app_is_admin() to flowai_app;

create table join_token (
    id          uuid primary key,
    created_by  uuid references account on delete set null,
    secret_hash bytea       not null check (length(secret_hash) = 32),
    labels      jsonb       not null check (jsonb_typeof(labels) = 'object'),
    uses        int         not null check (uses between 1 and 1000),
    uses_left   int         not null check (uses_left between 0 and uses),
    expires_at  timestamptz not null,
    revoked_at  timestamptz,
    created_at  timestamptz not null default now(),
    check (expires_at <= created_at + interval '24 hours')
);
create index join_token_created_by on join_token (created_by);
alter table join_token enable row level security;
alter table join_token force row level security;
-- nobody reads a hash back through the api.
grant select (id, created_by, labels, uses, uses_left, expires_at, revoked_at, created_at),
      insert (id, created_by, secret_hash, labels, uses, uses_left, expires_at),
      update (revoked_at) on join_token to flowai_app;
grant select, update (uses_left) on join_token to flowai_coordinator;
create policy admins on join_token to flowai_app
    using ((select app_is_admin())) with check ((select app_is_admin()) and (created_by is null or created_by = (select app_user())));
create policy all_rows on join_token to flowai_coordinator using (true) with check (true);

-- what is known of a node beside what it says when it registers: only nodes that joined by a token, or of which an operator
-- wants something, have a row. a drain and a revocation outlive every leader here.
create table node_member (
    node_id                text primary key check (node_id ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    labels                 jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
    facts                  jsonb not null default '{}' check (jsonb_typeof(facts) = 'object'),
    token_id               uuid references join_token on delete set null,
    joined_at              timestamptz,
    -- of the newest certificate that the leader signed; null when it was issued by whoever keeps the ca.
    certificate_expires_at timestamptz,
    drain                  text  not null default 'off' check (drain in ('off', 'lazy', 'now')),
    -- when a lazy drain becomes one that waits no longer.
    drain_now_at           timestamptz check (drain_now_at is null or drain = 'lazy'),
    revoked_at             timestamptz
);
create index node_member_token on node_member (token_id);
-- what every coordinator looks for once a second.
create index node_member_wanted on node_member (node_id) where drain <> 'off' or revoked_at is not null;
alter table node_member enable row level security;
alter table node_member force row level security;
grant select, insert (node_id, drain, drain_now_at, revoked_at), update (drain, drain_now_at, revoked_at) on node_member to flowai_app;
grant select, insert, update on node_member to flowai_coordinator;
create policy admins on node_member to flowai_app
    using ((select app_is_admin())) with check ((select app_is_admin()));
create policy all_rows on node_member to flowai_coordinator using (true) with check (true);

-- a certificate that was signed for a key under a token: whoever asks again with both gets it again, and no use is counted.
create table node_certificate (
    token_id        uuid        not null references join_token on delete cascade,
    public_key_hash bytea       not null check (length(public_key_hash) = 32),
    node_id         text        not null references node_member on delete cascade,
    certificate     text        not null,
    created_at      timestamptz not null default now(),
    primary key (token_id, public_key_hash)
);
create index node_certificate_node on node_certificate (node_id);
alter table node_certificate enable row level security;
alter table node_certificate force row level security;
grant select, insert on node_certificate to flowai_coordinator;
create policy all_rows on node_certificate to flowai_coordinator using (true) with check (true);

-- an operator drains and revokes nodes that exist, and no typing errors.
grant select (id) on node to flowai_app;
create policy read_admins on node for select to flowai_app using ((select app_is_admin()));
