/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/phase.h"

#define TO(p) (1u << PHASE_##p)

const struct phase_rule phase_rules[PHASE_COUNT] = {
	/*                  name      what may follow                       source  target */
	[PHASE_HELLO]  = { "hello",  TO(STAGE) | TO(ABORT),                 true,   false },
	[PHASE_STAGE]  = { "stage",  TO(ROUND) | TO(FREEZE) | TO(ABORT),    true,   false },
	[PHASE_ROUND]  = { "round",  TO(ROUND) | TO(FREEZE) | TO(ABORT),    true,   false },
	[PHASE_FREEZE] = { "freeze", TO(STATE) | TO(ABORT),                 false,  false },
	[PHASE_STATE]  = { "state",  TO(LAST) | TO(ABORT),                  false,  false },
	[PHASE_LAST]   = { "last",   TO(READY) | TO(ABORT),                 false,  false },
	[PHASE_READY]  = { "ready",  TO(COMMIT) | TO(STAGE) | TO(ABORT),    false,  false },
	[PHASE_COMMIT] = { "commit", TO(DONE),                              false,  true  },
	[PHASE_DONE]   = { "done",   0,                                     false,  true  },
	[PHASE_ABORT]  = { "abort",  0,                                     true,   false },
};
