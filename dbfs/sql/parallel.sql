-- Content of parallel files. To write: dbfs_begin_write at the home, dbfs_put_block for each block (pipelined, any
-- partition), dbfs_publish at the home. A partly written block is merged with its old content by the client.

-- Partition key of a block: consecutive blocks of a write go to consecutive slots.
CREATE OR REPLACE FUNCTION dbfs_block_key(in_write_id int8, in_block_no int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS $$
    SELECT in_write_id % 1073741824 + in_block_no
$$;

-- Step 1. Notes that blocks of this write (a fresh random number) may exist from now on.
CREATE OR REPLACE FUNCTION dbfs_begin_write(in_home int8, in_write_id int8, in_first_block int8, in_last_block int8)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO file_write (home, write_id, first_block, last_block)
        VALUES (in_home, in_write_id, in_first_block, in_last_block);
END
$$;

-- Step 2, for each block; in_block_key is dbfs_block_key(in_write_id, in_block_no).
CREATE OR REPLACE FUNCTION dbfs_put_block(in_block_key int8, in_write_id int8, in_block_no int8, in_data bytea)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO parallel_file (block_key, write_id, block_no, data)
        VALUES (in_block_key, in_write_id, in_block_no, in_data)
        ON CONFLICT DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION dbfs_get_block(in_block_key int8, in_write_id int8, in_block_no int8) RETURNS bytea
LANGUAGE sql AS $$
    SELECT data FROM parallel_file
        WHERE block_key = in_block_key AND write_id = in_write_id AND block_no = in_block_no
$$;

CREATE OR REPLACE FUNCTION dbfs_drop_block(in_block_key int8, in_write_id int8, in_block_no int8) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM parallel_file
        WHERE block_key = in_block_key AND write_id = in_write_id AND block_no = in_block_no;
END
$$;

-- Step 3. Makes the write visible, whole: its blocks replace those of the same numbers, and the size becomes
-- greatest(size, in_end), or in_end itself with in_cut (then blocks past the end go too). in_version is the version the
-- writer saw; 55006 if the file changed since, or the write was given up meanwhile (dbfs_abort_writes): write again.
-- Returns the new size.
CREATE OR REPLACE FUNCTION dbfs_publish(in_home int8, in_user text, in_parent text, in_name text, in_version int8,
                                        in_write_id int8, in_end int8, in_cut bool) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    f        record;
    w        record;
    new_size int8;
BEGIN
    SELECT kind, file_id, size, block_size, version INTO f FROM directory
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name FOR UPDATE;
    IF NOT FOUND OR f.kind <> 2 THEN
        RAISE EXCEPTION 'no such parallel file: % in %', in_name, in_parent USING ERRCODE = '58P01';
    END IF;
    DELETE FROM file_write WHERE home = in_home AND write_id = in_write_id RETURNING first_block, last_block INTO w;
    IF NOT FOUND OR f.version <> in_version THEN
        RAISE EXCEPTION 'file % changed while it was written', in_name USING ERRCODE = '55006';
    END IF;
    new_size := CASE WHEN in_cut THEN in_end ELSE greatest(f.size, in_end) END;
    INSERT INTO file_garbage (home, write_id, block_no)
        SELECT home, write_id, block_no FROM file_map
        WHERE home = in_home AND file_id = f.file_id AND block_no BETWEEN w.first_block AND w.last_block;
    FOR b IN w.first_block .. w.last_block LOOP
        INSERT INTO file_map (home, file_id, block_no, write_id) VALUES (in_home, f.file_id, b, in_write_id)
            ON CONFLICT (home, file_id, block_no) DO UPDATE SET write_id = EXCLUDED.write_id;
    END LOOP;
    IF in_cut THEN
        INSERT INTO file_garbage (home, write_id, block_no)
            SELECT home, write_id, block_no FROM file_map
            WHERE home = in_home AND file_id = f.file_id AND block_no >= (in_end + f.block_size - 1) / f.block_size;
        DELETE FROM file_map
            WHERE home = in_home AND file_id = f.file_id AND block_no >= (in_end + f.block_size - 1) / f.block_size;
    END IF;
    UPDATE directory SET size = new_size, version = version + 1, modified_at = now()
        WHERE home = in_home AND user_name = in_user AND parent = in_parent AND name = in_name;
    RETURN new_size;
END
$$;

-- Gives up writes of a home that began more than in_age_s seconds ago: their blocks become garbage. Returns how many.
CREATE OR REPLACE FUNCTION dbfs_abort_writes(in_home int8, in_age_s float8) RETURNS int4 LANGUAGE plpgsql AS $$
DECLARE
    w     record;
    count int4 := 0;
BEGIN
    FOR w IN SELECT write_id, first_block, last_block FROM file_write
             WHERE home = in_home AND started_at <= now() - in_age_s * interval '1 second' FOR UPDATE
    LOOP
        FOR b IN w.first_block .. w.last_block LOOP
            INSERT INTO file_garbage (home, write_id, block_no) VALUES (in_home, w.write_id, b);
        END LOOP;
        DELETE FROM file_write WHERE home = in_home AND write_id = w.write_id;
        count := count + 1;
    END LOOP;
    RETURN count;
END
$$;

-- Clean-up, resumable at any point: for each row of dbfs_garbage call dbfs_drop_block, then dbfs_collected.
CREATE OR REPLACE FUNCTION dbfs_garbage(in_home int8, in_limit int4)
RETURNS TABLE (write_id int8, block_no int8) LANGUAGE sql AS $$
    SELECT g.write_id, g.block_no FROM file_garbage g WHERE g.home = in_home
        ORDER BY g.write_id, g.block_no LIMIT in_limit
$$;

CREATE OR REPLACE FUNCTION dbfs_collected(in_home int8, in_write_id int8, in_block_no int8) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM file_garbage WHERE home = in_home AND write_id = in_write_id AND block_no = in_block_no;
END
$$;
