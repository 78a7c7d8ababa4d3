-- who leads, and which process of a node is the newest.

-- one row. every durable decision of a leader locks it for share and compares the epoch; taking over adds one to it.
create table leader (
    id         int primary key default 1 check (id = 1),
    epoch      int         not null default 0 check (epoch >= 0),
    holder     text,
    -- where the holder's link listens, for those who asked a standby.
    address    text,
    expires_at timestamptz not null default '-infinity'
);
alter table leader enable row level security;
alter table leader force row level security;
grant select, update on leader to flowai_coordinator;
grant select on leader to flowai_app;
create policy all_rows on leader to flowai_coordinator using (true) with check (true);
create policy read_all on leader for select to flowai_app using (true);
-- the owner is bound by the policies as well, so that the only row comes in as the coordinator that may never insert another.
create policy first_row on leader for insert to current_user with check (true);
insert into leader default values;
drop policy first_row on leader;

create table node (
    id            text primary key,
    generation    int         not null check (generation >= 1),
    registered_at timestamptz not null default now()
);
alter table node enable row level security;
alter table node force row level security;
grant select, insert, update on node to flowai_coordinator;
create policy all_rows on node to flowai_coordinator using (true) with check (true);

-- what each node offered when it registered last. a node that is away for a moment still offers: its users' jobs wait.
create table node_offer (
    node_id  text not null references node on delete cascade,
    model_id text not null references model on delete cascade,
    primary key (node_id, model_id)
);
create index node_offer_of_model on node_offer (model_id);
alter table node_offer enable row level security;
alter table node_offer force row level security;
grant select, insert, delete on node_offer to flowai_coordinator;
grant select on node_offer to flowai_app;
create policy all_rows on node_offer to flowai_coordinator using (true) with check (true);
create policy read_signed_in on node_offer for select to flowai_app using ((select app_user()) is not null);
