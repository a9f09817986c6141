-- Tables of the file system.
--
-- A user has a home partition key; directory rows and blocks of localized files live with it, so what concerns only them
-- touches one partition. Blocks of parallel files are spread: their key is dbfs_block_key(file_id, block_no). Every change
-- of a file is one transaction, over as many partitions as it takes.

-- user_name is the partition key here: this table is how a client finds a user's home.
CREATE TABLE IF NOT EXISTS fs_user (
    user_name  text NOT NULL PRIMARY KEY,
    home       int8 NOT NULL,
    -- Block size of new files in bytes. Files keep the one they were made with.
    block_size int4 NOT NULL DEFAULT 65536 CHECK (block_size BETWEEN 1 AND 4194304)
);

-- Files and directories. The root directory '/' has no row; its children have parent '/'.
-- kind: 0 directory, 1 localized file, 2 parallel file. version grows with every change of a file's content.
CREATE TABLE IF NOT EXISTS directory (
    home        int8        NOT NULL,
    user_name   text        NOT NULL,
    parent      text        NOT NULL,
    name        text        NOT NULL,
    kind        int4        NOT NULL,
    file_id     int8        NOT NULL,
    size        int8        NOT NULL DEFAULT 0,
    block_size  int4        NOT NULL DEFAULT 65536 CHECK (block_size BETWEEN 1 AND 4194304),
    version     int8        NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    modified_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (home, user_name, parent, name)
);

-- Blocks of localized files. A missing block, and what a short block lacks, reads as zeros up to the file's size.
CREATE TABLE IF NOT EXISTS localized_file (
    home     int8  NOT NULL,
    file_id  int8  NOT NULL,
    block_no int8  NOT NULL,
    data     bytea NOT NULL,
    PRIMARY KEY (home, file_id, block_no)
);

-- Blocks of parallel files; a missing block reads as those of localized files do.
CREATE TABLE IF NOT EXISTS parallel_file (
    block_key int8  NOT NULL,
    file_id   int8  NOT NULL,
    block_no  int8  NOT NULL,
    data      bytea NOT NULL,
    PRIMARY KEY (block_key, file_id, block_no)
);
