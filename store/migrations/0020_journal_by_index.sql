-- the same function as in 0019, but for two things: it finds each row by an index, whatever the size of the tables was when its
-- statements were planned, and without a lease row nobody leads, so that nothing is written.

-- writes what the leader decided in the term `offered`: each change is compared with the row that it changes, and is written whole
-- or not at all. gives for each, in their order, the job's owner, and whether it was written now or before; no owner when the row
-- holds something else. an ended term is the error ZTERM, whose detail is the epoch that counts now. the fields are those of
-- `store/src/journal/record.rs`.
create or replace function journal_commit(offered int, changes jsonb) returns table (owner uuid, is_new boolean)
    language plpgsql
    set search_path = public, pg_temp
as $$
declare
    held int;
    c record;
    next_seq bigint;
    event_owners uuid[] := '{}';
    event_jobs uuid[] := '{}';
    event_seqs bigint[] := '{}';
    event_kinds text[] := '{}';
    event_data jsonb[] := '{}';
    ended uuid[] := '{}';
    steps_done int[] := '{}';
    steps_total int[] := '{}';
begin
    -- no later term begins before this transaction ends.
    select l.epoch into held from leader l for share;
    if held is distinct from offered then
        raise exception 'the term is over' using errcode = 'ZTERM', detail = coalesce(held, 0)::text;
    end if;

    -- plans are kept by each connection, those of foreign keys too: made while a table is small, they read it whole for each change,
    -- and go on to when it has grown.
    perform set_config('enable_seqscan', 'off', true);

    for c in
        select * from jsonb_to_recordset(changes) as r (
            step text, job uuid, attempt int, epoch int, node text, generation int, state text,
            outcome text, is_death boolean, error jsonb, detail text, event text, data jsonb,
            done int, total int, artefact jsonb, checkpoint jsonb)
    loop
        owner := null;
        case c.step
            when 'assign' then
                update job_state s
                   set state = c.state, attempt = c.attempt, epoch = offered, node_id = c.node, generation = c.generation,
                       started_at = coalesce(s.started_at, now()), seq = s.seq + 1
                 where s.job_id = c.job and s.state = 'queued' and s.attempt = c.attempt - 1 and s.cancel_requested_at is null
                returning s.owner_id, s.seq into owner, next_seq;
                if found then
                    insert into attempt (job_id, owner_id, attempt, epoch, node_id, generation)
                        values (c.job, owner, c.attempt, offered, c.node, c.generation);
                end if;
            when 'adopt' then
                update job_state s
                   set epoch = offered
                 where s.job_id = c.job and s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
                   and s.node_id = c.node and s.generation = c.generation
                returning s.owner_id into owner;
                if found then
                    update attempt a set epoch = offered where a.job_id = c.job and a.attempt = c.attempt;
                end if;
            when 'keep' then
                select s.owner_id into owner from job_state s
                 where s.job_id = c.job and s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
                   and s.node_id = c.node and s.generation = c.generation
                   for share;
            when 'end' then
                update job_state s
                   set state = c.state, node_id = null, node_deaths = s.node_deaths + c.is_death::int, error = c.error,
                       finished_at = case when c.state = 'queued' then null else now() end, seq = s.seq + 1
                 where s.job_id = c.job and s.state = 'running' and s.attempt = c.attempt and s.epoch = c.epoch
                   and s.node_id = c.node and s.generation = c.generation
                returning s.owner_id, s.seq into owner, next_seq;
                if found then
                    update attempt a set ended_at = now(), outcome = c.outcome, detail = c.detail
                     where a.job_id = c.job and a.attempt = c.attempt;
                end if;
            when 'end_waiting' then
                -- its owner ended it, or nobody can ever start it.
                update job_state s
                   set state = c.state, error = c.error, finished_at = now(), seq = s.seq + 1
                 where s.job_id = c.job and s.state = 'queued' and s.attempt = c.attempt
                   and (c.state <> 'cancelled' or s.cancel_requested_at is not null)
                returning s.owner_id, s.seq into owner, next_seq;
        end case;

        if owner is null then
            -- who holds a waiting job is nobody: what ended it before is read again from its row.
            select s.owner_id into owner
              from job_state s join attempt a on a.job_id = s.job_id and a.attempt = s.attempt and a.node_id = c.node
             where s.job_id = c.job and s.state = c.state and s.attempt = c.attempt and s.generation = c.generation
               and s.epoch = case when c.step in ('assign', 'adopt') then offered else c.epoch end;
            is_new := false;
            return next;
            continue;
        end if;

        if c.artefact is not null then
            if c.artefact -> 'keyframe' is not null then
                insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
                    select k.id, owner, 'image', decode(k.sha256, 'hex'), k.bytes, k.content_type, k.width, k.height, k.key
                      from jsonb_to_record(c.artefact -> 'keyframe')
                           as k (id uuid, sha256 text, bytes bigint, content_type text, width int, height int, key text);
            end if;
            insert into artefact (job_id, owner_id, attempt, clip_sha256, clip_bytes, manifest,
                                  clip_key, poster_key, preview_key, spritesheet_key, keyframe_id)
                select c.job, owner, c.attempt, decode(a.sha256, 'hex'), a.bytes, a.manifest,
                       a.clip, a.poster, a.preview, a.spritesheet, (c.artefact #>> '{keyframe,id}')::uuid
                  from jsonb_to_record(c.artefact)
                       as a (sha256 text, bytes bigint, manifest jsonb, clip text, poster text, preview text, spritesheet text);
        end if;
        -- what an attempt that failed left may be why it failed.
        if c.state = 'queued' and c.outcome = 'failed' then
            delete from checkpoint k where k.job_id = c.job;
        elsif c.checkpoint is not null then
            insert into checkpoint as k (job_id, owner_id, attempt, step, steps, sha256, bytes, device_class, engine, resumed)
                select c.job, owner, c.attempt, f.step, f.steps, decode(f.sha256, 'hex'), f.bytes, f.device_class, f.engine,
                       coalesce(f.resumed, '[]')
                  from jsonb_to_record(c.checkpoint)
                       as f (step int, steps int, sha256 text, bytes bigint, device_class text, engine text, resumed jsonb)
                on conflict (job_id) do update
                set attempt = excluded.attempt, step = excluded.step, steps = excluded.steps, sha256 = excluded.sha256,
                    bytes = excluded.bytes, device_class = excluded.device_class, engine = excluded.engine,
                    resumed = excluded.resumed, kept_at = now()
                where (k.attempt, k.step) <= (excluded.attempt, excluded.step);
        end if;
        if c.event is not null then
            event_owners := event_owners || owner;
            event_jobs := event_jobs || c.job;
            event_seqs := event_seqs || next_seq;
            event_kinds := event_kinds || c.event;
            event_data := event_data || c.data;
        end if;
        if c.state not in ('queued', 'running') then
            ended := ended || c.job;
            steps_done := steps_done || c.done;
            steps_total := steps_total || c.total;
        end if;
        is_new := true;
        return next;
    end loop;

    -- numbers the events in their users' streams in the order of the batch, without a gap; the streams are taken in the order of users.
    with event as (
        select * from unnest(event_owners, event_jobs, event_seqs, event_kinds, event_data)
                 with ordinality as e (owner_id, job_id, seq, kind, data, place)
    ), stream as (
        insert into user_stream as s (user_id, seq)
        select e.owner_id, count(*) from event e group by e.owner_id order by e.owner_id
        on conflict (user_id) do update set seq = s.seq + excluded.seq
        returning s.user_id, s.seq
    )
    insert into job_event (owner_id, user_seq, job_id, seq, kind, data)
    select e.owner_id,
           stream.seq - count(*) over (partition by e.owner_id) + row_number() over (partition by e.owner_id order by e.place),
           e.job_id, e.seq, e.kind, e.data
      from event e join stream on stream.user_id = e.owner_id;
    -- the ledger's sets are joined as the planner likes.
    perform set_config('enable_seqscan', 'on', true);

    if cardinality(ended) > 0 then
        perform ledger_end_holds(ended, steps_done, steps_total);
    end if;
end;
$$;
