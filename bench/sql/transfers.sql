-- Accounts of a bank with branches; a branch is a partition key.
CREATE TABLE IF NOT EXISTS bench_account (
  branch int NOT NULL,
  account int NOT NULL,
  balance bigint NOT NULL,
  PRIMARY KEY (branch, account)
);

-- Within one branch, that is within one partition.
CREATE OR REPLACE FUNCTION bench_transfer(in_branch int, in_from int, in_to int, in_amount bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE bench_account SET balance = balance - in_amount WHERE branch = in_branch AND account = in_from;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'account % of branch % does not exist', in_from, in_branch;
  END IF;
  UPDATE bench_account SET balance = balance + in_amount WHERE branch = in_branch AND account = in_to;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'account % of branch % does not exist', in_to, in_branch;
  END IF;
END $$;

-- Between branches. The lower branch comes first whichever way the money goes (the amount may be negative), so that no two
-- transfers wait for each other in a circle, on any database.
CREATE OR REPLACE FUNCTION bench_transfer_between(
  in_branch int, in_account int, in_other_branch int, in_other_account int, in_amount bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE bench_account SET balance = balance - in_amount WHERE branch = in_branch AND account = in_account;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'account % of branch % does not exist', in_account, in_branch;
  END IF;
  UPDATE bench_account SET balance = balance + in_amount
    WHERE branch = in_other_branch AND account = in_other_account;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'account % of branch % does not exist', in_other_account, in_other_branch;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION bench_open_accounts(in_branch int, in_accounts int, in_balance bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM bench_account WHERE branch = in_branch;
  INSERT INTO bench_account
    SELECT in_branch, g, in_balance FROM generate_series(0, in_accounts - 1) AS g;
END $$;
