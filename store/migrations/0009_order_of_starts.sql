-- what the leader orders starts by, beside the owner's tier.

alter table job
    -- whether somebody sits and waits for it, or it is one of many.
    add column class text not null default 'interactive' check (class in ('interactive', 'batch')),
    -- it starts only when that job is done. no foreign key: a purged one counts as never done.
    add column after_id uuid;
