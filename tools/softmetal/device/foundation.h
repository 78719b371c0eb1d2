// The collections and strings that ggml's Objective-C uses.
#pragma once

#include "objc.h"

#include <mutex>

struct String : Object { std::string text; };
struct Number : Object { int value = 0; };
struct Lock : Object { std::mutex mutex; };
struct Error : Object { std::string text; };
struct Array : Object { std::vector<id> items; ~Array(); };
struct Dictionary : Object { std::map<std::string, id> items; ~Dictionary(); };
struct Nothing : Object {};

std::string text_of(id string);
id new_string(std::string text);
id new_array(std::vector<id> items);
void set_error(id * error, std::string text);
