/* SPDX-License-Identifier: Apache-2.0 */
/* Images as JSON: every type of field, and what is no text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "front/json.h"
#include "image/messages.h"
#include "image/store.h"
#include "netdev.pb-c.h"

static char *printed(const ProtobufCMessage *m)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	json_message(out, m, 0);
	fclose(out);
	return text;
}

static void every_type_of_field(void **state)
{
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	uint32_t build_id[] = { 1, 2 };

	(void)state;
	file.type = FD_TYPES__REG;
	file.id = 4294967295u;
	file.reg = &reg;
	reg.fown = &fown;
	reg.pos = UINT64_MAX;
	reg.name = (char *)"/a \"b\"\\\n\xc3\xa4\xff\xed\xa0\x80";
	reg.has_mnt_id = true;
	reg.has_ext = reg.ext = true;
	reg.n_build_id = 2;
	reg.build_id = build_id;
	own_free char *text = printed(&file.base);
	assert_string_equal(text,
		"{\n  \"type\": \"REG\",\n  \"id\": 4294967295,\n  \"reg\": {\n    \"id\": 0,\n    \"flags\": 0,\n"
		"    \"pos\": 18446744073709551615,\n    \"fown\": {\n      \"uid\": 0,\n      \"euid\": 0,\n      \"signum\": 0,\n"
		"      \"pid_type\": 0,\n      \"pid\": 0\n    },\n    \"name\": \"/a \\\"b\\\"\\\\\\u000a\xc3\xa4\\u00ff\\u00ed\\u00a0\\u0080\",\n"
		"    \"mnt_id\": -1,\n    \"ext\": true,\n    \"build_id\": [1, 2]\n  }\n}");
}

static void bytes_and_unknown_enums(void **state)
{
	static const struct { const char *bytes, *text; } cases[] = {
		{ "", "\"\"" }, { "f", "\"Zg==\"" }, { "fo", "\"Zm8=\"" }, { "foo", "\"Zm9v\"" }, { "\xff\xfe\xfd", "\"//79\"" },
	};
	NetDeviceEntry dev = NET_DEVICE_ENTRY__INIT;

	(void)state;
	dev.type = 99;
	dev.name = (char *)"eth0";
	dev.has_address = true;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		dev.address = (ProtobufCBinaryData){ strlen(cases[i].bytes), (uint8_t *)(uintptr_t)cases[i].bytes };
		own_free char *text = printed(&dev.base);
		assert_non_null(strstr(text, cases[i].text));
		assert_non_null(strstr(text, "\"type\": 99,"));
	}
}

static void whole_images(void **state)
{
	char dir[] = "/tmp/ferry-json-XXXXXX", path[64], *text = NULL;
	own_store *store = NULL;
	own_writer *w = NULL;
	PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;
	struct err err;
	size_t size;

	(void)state;
	assert_non_null(mkdtemp(dir));
	pipe.pipe_id = 7;
	pipe.bytes = 3;
	assert_int_equal(store_create_dir(dir, &store, &err), 0);
	assert_int_equal(image_create(store, IMAGE_PIPES_DATA, 0, &w, &err), 0);
	assert_int_equal(image_put(w, &pipe.base, &err), 0);
	assert_int_equal(image_put_raw(w, "abc", 3, &err), 0);
	assert_int_equal(image_finish(&w, &err), 0);

	FILE *out = open_memstream(&text, &size);
	snprintf(path, sizeof(path), "%s/pipes-data.img", dir);
	assert_int_equal(image_print_json(path, out, &err), 0);
	fclose(out);
	assert_string_equal(text, "{\n  \"magic\": \"PIPES_DATA\",\n  \"entries\": [\n    {\n      \"pipe_id\": 7,\n"
				  "      \"bytes\": 3,\n      \"raw_bytes\": 3\n    }\n  ]\n}\n");
	free(text);

	out = fopen("/dev/full", "w");
	setvbuf(out, NULL, _IONBF, 0);
	assert_int_equal(image_print_json(path, out, &err), -EIO);
	fclose(out);
	assert_int_equal(truncate(path, 10), 0);
	out = fopen("/dev/null", "w");
	assert_int_equal(image_print_json(path, out, &err), -EBADMSG);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(image_print_json(path, out, &err), -EBADMSG);
	fclose(out);
	unlink(path);
	rmdir(dir);
	assert_int_equal(image_print_json(path, stdout, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_of_field),
		cmocka_unit_test(bytes_and_unknown_enums),
		cmocka_unit_test(whole_images),
	};

	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
