create database mail;
-- The collation makes "Anna" another name than "anna", as it is for everything else on a Unix host.
create table mail.users (
  name varchar(64) character set utf8mb4 collate utf8mb4_bin primary key,
  hash varchar(255) not null,
  status int not null default 0
);
-- From this host, as 127.0.0.1 in pam-mysql.conf; the server may call that by its name.
create user pamrelay@localhost identified by 'change-me';
create user pamrelay@'127.0.0.1' identified by 'change-me';
grant select on mail.users to pamrelay@localhost, pamrelay@'127.0.0.1';
