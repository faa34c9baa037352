/* Part of launcher.c: as a launcher file. */

/* An exec of a launcher file: its configuration says which program it is for. */
_Noreturn void launcher_file(u64 *sp, const struct config *cfg)
{
	struct caller c = { .given = -1, .store = -1, .known = cfg->stores };
	struct short_text here;
	struct text *t = 0;
	const char *behind;
	struct reason no;
	int touched;

	if (cfg->front) {
		launcher_front(sp, cfg);
		sys3(SYS_exit, 125, 0, 0);
	}
	look(&c, sp);
	find_strings(&c);
	find_self(&c);
	if (c.aux[AT_FLAGS] & AT_FLAGS_PRESERVE_ARGV0)
		launcher_given(&c, cfg);
	c.by_file = 1;
	c.room = cfg->room;
	c.program = (const char *)cfg + cfg->program;
	no = ask_environment(&c);
	if (!no.why)
		no = ask_filter();
	behind = directories_behind(&c);
	if (behind)
		t = room_behind(&c, behind, &here);
	if (t && t != (struct text *)&here)
		c.own = t + 1;
	if (t && !no.why)
		no = ask_path(&c, behind, t);
	c.may_set_exe = !no.why && may_set_exe();
	if (!no.why)
		no = enter_store(&c, (const char *)cfg + cfg->stores->path);
	if (!no.why)
		no = become(&c, (const char *)cfg + cfg->plan, 0, &touched);
	if (t)
		exec_behind(&c, behind, t, no);
	exec_program(&c, no);
}
