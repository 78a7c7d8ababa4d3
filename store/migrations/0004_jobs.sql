-- jobs by churn: `job` never changes, `job_state` is narrow and changes often (no index on a changing column, so that
-- updates stay in their page), `job_event` only grows.

-- numbers the durable events of a user. taken by `update … returning` in the event's own transaction: a sequence would let
-- a reader of "all after n" miss rows that commit out of order.
create table user_stream (
    user_id uuid primary key references account on delete cascade,
    seq     bigint not null default 0
) with (fillfactor = 60);
alter table user_stream enable row level security;
alter table user_stream force row level security;
grant select, insert, update on user_stream to flowai_app, flowai_coordinator;
create policy own on user_stream to flowai_app
    using (user_id = (select app_user())) with check (user_id = (select app_user()));
create policy all_rows on user_stream to flowai_coordinator using (true) with check (true);

create table job (
    id         uuid primary key,
    owner_id   uuid        not null references account on delete cascade,
    -- as `RenderSpec` in actors/src/spec.rs.
    spec       jsonb       not null,
    model_id   text        not null references model,
    image_id   uuid        not null,
    -- what the user wrote; the engine does not read it yet.
    prompt     text        not null default '' check (length(prompt) <= 2000),
    parent_id  uuid,
    created_at timestamptz not null default now(),
    -- also the order of an owner's list.
    unique (owner_id, id),
    constraint job_image_not_found foreign key (owner_id, image_id) references upload (owner_id, id),
    constraint job_parent_not_found foreign key (owner_id, parent_id) references job (owner_id, id)
        on delete set null (parent_id)
);
create index job_image on job (owner_id, image_id);
create index job_parent on job (owner_id, parent_id) where parent_id is not null;
alter table job enable row level security;
alter table job force row level security;
grant select, insert, delete on job to flowai_app;
grant select on job to flowai_coordinator;
create policy own on job to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy read_all on job for select to flowai_coordinator using (true);

-- an adapter that a job names cannot be deleted under it.
create table job_adapter (
    job_id     uuid not null,
    owner_id   uuid not null,
    adapter_id uuid not null,
    primary key (job_id, adapter_id),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade,
    constraint job_adapter_not_found foreign key (owner_id, adapter_id) references adapter (owner_id, id)
);
create index job_adapter_adapter on job_adapter (owner_id, adapter_id);
alter table job_adapter enable row level security;
alter table job_adapter force row level security;
grant select, insert, delete on job_adapter to flowai_app;
grant select on job_adapter to flowai_coordinator;
create policy own on job_adapter to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy read_all on job_adapter for select to flowai_coordinator using (true);

create table job_state (
    job_id              uuid primary key,
    owner_id            uuid        not null,
    state               text        not null default 'queued'
                                    check (state in ('queued', 'running', 'done', 'failed', 'cancelled', 'quarantined')),
    -- the newest attempt, 0 before the first, and who holds it: a write about an attempt compares all four (inv-2).
    attempt             int         not null default 0 check (attempt >= 0),
    epoch               int         not null default 0 check (epoch >= 0),
    node_id             text,
    generation          int         not null default 0,
    -- attempts that ended because their node died.
    node_deaths         int         not null default 0,
    cancel_requested_at timestamptz,
    -- of the job's newest event, 1 for the first.
    seq                 bigint      not null default 1,
    error               jsonb,
    started_at          timestamptz,
    finished_at         timestamptz,
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade,
    check ((state = 'running') = (node_id is not null)),
    check ((state in ('queued', 'running')) = (finished_at is null))
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
-- serves recovery and the sweep, nothing else.
create index job_state_unfinished on job_state (job_id) where finished_at is null;
-- counts what waits of one owner, at each submission.
create index job_state_unfinished_of_owner on job_state (owner_id) where finished_at is null;
alter table job_state enable row level security;
alter table job_state force row level security;
grant select, insert, update on job_state to flowai_app, flowai_coordinator;
-- the owner may queue, cancel what waits, and ask for the end of what runs; everything else is the leader's.
create policy own_read on job_state for select to flowai_app using (owner_id = (select app_user()));
create policy own_queue on job_state for insert to flowai_app
    with check (owner_id = (select app_user()) and state = 'queued' and attempt = 0 and epoch = 0);
create policy own_cancel on job_state for update to flowai_app
    using (owner_id = (select app_user()) and state in ('queued', 'running'))
    with check (owner_id = (select app_user()) and cancel_requested_at is not null and state in ('running', 'cancelled'));
create policy all_rows on job_state to flowai_coordinator using (true) with check (true);

create table job_event (
    owner_id uuid        not null references account on delete cascade,
    -- counts the user's events, so that one stream carries all jobs.
    user_seq bigint      not null,
    job_id   uuid        not null,
    -- counts the job's events.
    seq      bigint      not null,
    kind     text        not null check (kind in ('queued', 'assigned', 'cancelling', 'retrying',
                                                  'done', 'failed', 'cancelled', 'quarantined')),
    data     jsonb       not null default '{}',
    at       timestamptz not null default now(),
    primary key (owner_id, user_seq),
    unique (job_id, seq),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade
);
alter table job_event enable row level security;
alter table job_event force row level security;
grant select, insert on job_event to flowai_app, flowai_coordinator;
create policy own on job_event to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy all_rows on job_event to flowai_coordinator using (true) with check (true);

-- the history of tries, for people; the fence itself is in `job_state`.
create table attempt (
    job_id     uuid        not null,
    owner_id   uuid        not null,
    attempt    int         not null check (attempt >= 1),
    epoch      int         not null,
    node_id    text        not null,
    generation int         not null,
    started_at timestamptz not null default now(),
    ended_at   timestamptz,
    outcome    text check (outcome in ('done', 'failed', 'lost', 'stopped')),
    detail     text,
    primary key (job_id, attempt),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade,
    check ((ended_at is null) = (outcome is null))
);
alter table attempt enable row level security;
alter table attempt force row level security;
grant select on attempt to flowai_app;
grant select, insert, update on attempt to flowai_coordinator;
create policy own on attempt for select to flowai_app using (owner_id = (select app_user()));
create policy all_rows on attempt to flowai_coordinator using (true) with check (true);

-- at most one delivered clip a job (inv-3).
create table artefact (
    job_id          uuid primary key,
    owner_id        uuid        not null,
    attempt         int         not null,
    clip_sha256     bytea       not null check (length(clip_sha256) = 32),
    clip_bytes      bigint      not null check (clip_bytes > 0),
    clip_key        text        not null,
    poster_key      text        not null,
    preview_key     text        not null,
    spritesheet_key text        not null,
    manifest        jsonb       not null,
    created_at      timestamptz not null default now(),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade
);
alter table artefact enable row level security;
alter table artefact force row level security;
grant select, delete on artefact to flowai_app;
grant select, insert on artefact to flowai_coordinator;
create policy own on artefact to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy all_rows on artefact to flowai_coordinator using (true) with check (true);

-- the answer to a request that must not happen twice, written in the transaction of its effect, kept for 24 hours.
create table idempotency (
    owner_id     uuid        not null references account on delete cascade,
    key          text        not null check (length(key) between 1 and 255),
    request_hash bytea       not null check (length(request_hash) = 32),
    status       int         not null,
    body         jsonb       not null,
    created_at   timestamptz not null default now(),
    constraint idempotency_key_used primary key (owner_id, key)
);
-- finds those that are too old.
create index idempotency_by_age on idempotency (created_at);
alter table idempotency enable row level security;
alter table idempotency force row level security;
grant select, insert, update on idempotency to flowai_app;
grant select (owner_id, key, created_at), delete on idempotency to flowai_coordinator;
create policy own on idempotency to flowai_app
    using (owner_id = (select app_user())) with check (owner_id = (select app_user()));
create policy expired on idempotency to flowai_coordinator using (created_at < now() - interval '24 hours');
