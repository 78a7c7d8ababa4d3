-- where the next attempt of an unfinished job may go on: the newest checkpoint that lies in the object store. a table of its own,
-- because `job_state` is narrow and most jobs end without one. written at most once a minute a job, deleted when the job has ended.
create table checkpoint (
    job_id       uuid primary key,
    owner_id     uuid        not null,
    -- the attempt that left it; with the step, where its object lies.
    attempt      int         not null check (attempt >= 1),
    -- denoising steps that are done.
    step         int         not null check (step >= 1),
    steps        int         not null check (steps >= step),
    sha256       bytea       not null check (length(sha256) = 32),
    bytes        bigint      not null check (bytes > 0),
    -- what can go on from it: equal bits need the same device class, and the file the same engine.
    device_class text        not null,
    engine       text        not null,
    -- as `Resumed` in actors/src/manifest.rs: how the run that it was made of began.
    resumed      jsonb       not null default '[]',
    kept_at      timestamptz not null default now(),
    foreign key (owner_id, job_id) references job (owner_id, id) on delete cascade
) with (fillfactor = 60);
alter table checkpoint enable row level security;
alter table checkpoint force row level security;
-- the api has no business with it.
grant select, insert, update, delete on checkpoint to flowai_coordinator;
create policy all_rows on checkpoint to flowai_coordinator using (true) with check (true);
