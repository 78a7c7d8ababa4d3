-- accounts and what proves who somebody is. nobody but `flowai_auth` reads a password hash or a token hash.

create table account (
    id           uuid primary key,
    email        text        not null constraint account_email_taken unique
                             check (email = lower(email) and length(email) between 3 and 254),
    tier         text        not null default 'free' check (tier in ('free', 'pro', 'studio')),
    role         text        not null default 'user' check (role in ('user', 'moderator', 'admin')),
    suspended_at timestamptz,
    created_at   timestamptz not null default now()
);
alter table account enable row level security;
alter table account force row level security;
grant select on account to flowai_app, flowai_coordinator;
grant select, insert, update (role) on account to flowai_auth;
create policy own on account for select to flowai_app using (id = (select app_user()));
create policy read_all on account for select to flowai_coordinator using (true);
create policy auth on account to flowai_auth using (true) with check (true);

create table credential (
    user_id       uuid primary key references account on delete cascade,
    password_hash text        not null,
    changed_at    timestamptz not null default now()
);
alter table credential enable row level security;
alter table credential force row level security;
grant select, insert, update on credential to flowai_auth;
create policy auth on credential to flowai_auth using (true) with check (true);

-- one login. a refresh token is the login's family, which stays, and a secret, which is replaced at each use. whoever shows
-- the family with a secret that is neither the present one nor, within the grace time, the one before holds an old token.
create table sign_in (
    id            uuid primary key,
    user_id       uuid        not null references account on delete cascade,
    family_hash   bytea       not null unique check (length(family_hash) = 32),
    secret_hash   bytea       not null check (length(secret_hash) = 32),
    previous_hash bytea check (length(previous_hash) = 32),
    rotated_at    timestamptz not null default now(),
    expires_at    timestamptz not null,
    revoked_at    timestamptz,
    created_at    timestamptz not null default now()
);
create index sign_in_of_user on sign_in (user_id);
alter table sign_in enable row level security;
alter table sign_in force row level security;
grant select, insert, update on sign_in to flowai_auth;
create policy auth on sign_in to flowai_auth using (true) with check (true);

create table api_key (
    id           uuid primary key,
    owner_id     uuid        not null references account on delete cascade,
    name         text        not null check (length(name) between 1 and 80),
    prefix       text        not null check (length(prefix) = 12),
    key_hash     bytea       not null unique check (length(key_hash) = 32),
    scopes       text[]      not null,
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    created_at   timestamptz not null default now()
);
create index api_key_of_owner on api_key (owner_id);
alter table api_key enable row level security;
alter table api_key force row level security;
-- the owner makes, lists and ends keys, but cannot read a hash back.
grant select (id, owner_id, name, prefix, scopes, expires_at, last_used_at, revoked_at, created_at),
      insert (id, owner_id, name, prefix, key_hash, scopes, expires_at),
      update (revoked_at) on api_key to flowai_app;
grant select, update on api_key to flowai_auth;
create policy own on api_key to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy auth on api_key to flowai_auth using (true) with check (true);
